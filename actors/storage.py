"""An actor's database: one SQLite file, or one PostgreSQL schema, that no other actor reads.

SQL runs in threads, off the event loop. On SQLite there is one writer at a time (`BEGIN IMMEDIATE`: an upgrade
from read to write fails at once, whatever the busy timeout) and every commit is synced to the disk.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel, create_engine

from mcpctl.bus.errors import Unavailable

T = TypeVar("T")

DURABLE = ("synchronous=FULL",)
PASSING = ("synchronous=OFF", "wal_autocheckpoint=32")
"""SQLite for what is kept, and for what is worth nothing after a stop: it takes 128 KiB, and no more on a full disk."""

State = Literal["empty", "behind", "current", "newer"]
"""How an actor's tables stand to this version of the program."""

READERS = 4
"""Threads that read beside the one that writes."""


class NewerDatabase(OSError):
    """The database was written by a newer version of the program."""


class Store:
    """Runs an actor's SQL: `read` side by side, `write` one after the other (on SQLite).

    What is not `durable` may be gone after a loss of power, and costs no sync of the disk (on SQLite).
    """

    def __init__(self, actor: str, url: str, *, durable: bool = True) -> None:
        self.actor = actor
        self.engine = _engine(actor, url, durable=durable)
        writers = 1 if self.engine.dialect.name == "sqlite" else READERS
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix=f"{actor}-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix=f"{actor}-read")

    @property
    def revision(self) -> str:
        """The revision to which `open` brings the tables."""
        with _scripts(self.actor) as scripts:
            return str(scripts.get_current_head())

    def standing(self) -> tuple[str | None, str, State]:
        """Return the revision of the tables (None: there are none), that of this program, and what that means."""
        file = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        if file is not None and not Path(file).exists():
            return None, self.revision, "empty"  # and it stays so: to connect would make it
        with _scripts(self.actor) as scripts, self.engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(text(f"SET LOCAL search_path TO {self.actor}"))
            current, head = MigrationContext.configure(connection).get_current_revision(), self.revision
            known = {script.revision for script in scripts.walk_revisions()}
        if current is None:
            return current, head, "empty"
        if current not in known:
            return current, head, "newer"
        return current, head, "current" if current == head else "behind"

    async def open(self) -> None:
        """Bring the tables to this program's version. Raises `NewerDatabase`, `Unavailable`, `OSError`."""
        self._make_folder()
        await self._run(self._writers, self._migrate)

    async def make(self, table: type[SQLModel]) -> None:
        """Make one table, if it is not there, without a revision: for what is worth nothing after a stop."""
        self._make_folder()

        def make() -> None:
            # Another replica may make it at the same moment.
            with suppress(OperationalError, ProgrammingError, IntegrityError):
                SQLModel.metadata.create_all(self.engine, [SQLModel.metadata.tables[str(table.__tablename__)]])

        await self._run(self._writers, make)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a session that changes nothing. Raises `Unavailable` where the database is away."""
        return await self._run(self._readers, lambda: self._in_session(work, commit=False))

    async def write(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one transaction: all of it or nothing. Raises `Unavailable` where the database is away."""
        return await self._run(self._writers, lambda: self._in_session(work, commit=True))

    def _make_folder(self) -> None:
        if self.engine.dialect.name == "sqlite":
            Path(str(self.engine.url.database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def close(self) -> None:
        for pool in (self._writers, self._readers):
            await asyncio.to_thread(pool.shutdown)
        self.engine.dispose()

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except OperationalError as error:
            raise Unavailable(f"the database of the {self.actor} actor does not answer ({error.orig})") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise Unavailable(f"the database of the {self.actor} actor went away") from error
            raise

    def _in_session(self, work: Callable[[Session], T], *, commit: bool) -> T:
        with Session(self.engine, expire_on_commit=False) as session:
            if self.engine.dialect.name == "sqlite":
                session.connection().exec_driver_sql("BEGIN IMMEDIATE" if commit else "BEGIN")
            result = work(session)
            if commit:
                session.commit()
            return result

    def _migrate(self) -> None:
        with _scripts(self.actor) as scripts:
            head = scripts.get_current_head()
            with self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self.actor})
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self.actor}"))
                    connection.execute(text(f"SET LOCAL search_path TO {self.actor}"))
                context = MigrationContext.configure(connection)
                current = context.get_current_revision()
                known = {script.revision for script in scripts.walk_revisions()}
                if current is not None and current not in known:
                    raise NewerDatabase(
                        f"the database of the {self.actor} actor is at revision {current}, which this version of "
                        "mcpctl does not know: start the version that wrote it, or a newer one"
                    )
                if current != head:
                    with Operations.context(context):
                        for script in reversed(list(scripts.iterate_revisions(head, current or "base"))):
                            script.module.upgrade()
                            context.stamp(scripts, script.revision)
                connection.commit()


@contextmanager
def _scripts(actor: str) -> Iterator[ScriptDirectory]:
    with resources.as_file(resources.files("mcpctl.actors").joinpath("migrations")) as folder:
        yield ScriptDirectory(str(folder), version_locations=[str(folder / actor)])


def _engine(actor: str, url: str, *, durable: bool) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_pre_ping=True,
            hide_parameters=True,  # a failing statement is logged, and its values may be nobody's business
            execution_options={"schema_translate_map": {None: actor}},
        )
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": 5.0, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # sqlite3: transactions are begun by us alone
        for pragma in ("busy_timeout=5000", "journal_mode=WAL", "foreign_keys=ON", *(DURABLE if durable else PASSING)):
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


def database_url(actor: str, url: str | None, data: Path = Path()) -> str:
    """Return where an actor keeps its tables: `url` (PostgreSQL), or a file of its own below `data`."""
    if url:
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    return f"sqlite:///{data / 'sql' / f'{actor}.sqlite'}"
