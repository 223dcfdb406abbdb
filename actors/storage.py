"""An actor's database: one SQLite file, or one PostgreSQL schema, that no other actor reads.

SQL runs in threads, off the event loop. On SQLite there is one writer at a time (`BEGIN IMMEDIATE`: an upgrade
from read to write fails at once, whatever the busy timeout) and every commit is synced to the disk. On both, what
reads sees one state of the database, however many statements it takes.
"""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog
from sqlalchemy import URL, Column, Connection, Engine, MetaData, Table, event, inspect, make_url, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session, SQLModel, create_engine

from mcpctl.bus.errors import Unavailable

if TYPE_CHECKING:  # it takes a tenth of an actor's start, and most starts find their tables as they should be
    from alembic.script import ScriptDirectory

log = structlog.get_logger()

T = TypeVar("T")

DURABLE = ("synchronous=FULL",)
PASSING = ("synchronous=OFF", "wal_autocheckpoint=32")
"""SQLite for what is kept, and for what is worth nothing after a stop: it takes 128 KiB, and no more on a full disk."""

State = Literal["empty", "behind", "current", "newer"]
"""How an actor's tables stand to this version of the program."""

READERS = 4
"""Threads that read beside those that write."""

WRITERS = 2
"""Threads that write on PostgreSQL. Changes of one actor wait for each other anyhow, notes of last use do not."""

TAKEN_BACK = frozenset({"40001", "40P01"})
"""What PostgreSQL took back for another's sake (serialization_failure, deadlock_detected): it is done again."""

ATTEMPTS = 5

LOCKED = "55P03"
"""lock_not_available: somebody writes."""

LOCK_SECONDS = 5.0
"""For how long a migration tries to have all tables at once before it waits for each."""

READ_ONLY = "25006"
"""read_only_sql_transaction: this server is a standby now, and another one leads."""

LIBPQ: dict[str, str] = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""libpq's parameters, unless the URL says otherwise: a server that is gone without a word is missed in 10 s."""

OPTIONS = ("idle_in_transaction_session_timeout=5000", "lock_timeout=10000")
"""PostgreSQL's, in ms: a replica that is frozen in a transaction does not hold up the others for longer."""

PATIENCE = (0.2, 5.0)
"""Seconds between two attempts to reach the database at the start: the first pause, and the longest."""


class DatabaseRefused(OSError):
    """The database cannot be used as it is: it does not help to wait."""


class NewerDatabase(DatabaseRefused):
    """The database was written by a newer version of the program."""


class Store:
    """Runs an actor's SQL: `read` side by side, `write` one after the other (on SQLite).

    What is not `durable` may be gone after a loss of power, and costs no sync of the disk (on SQLite).
    """

    def __init__(self, actor: str, url: str, *, durable: bool = True) -> None:
        self.actor = actor
        readers = READERS if durable else 1
        writers = WRITERS if durable and not url.startswith("sqlite") else 1
        self.engine = _engine(actor, url, durable=durable, connections=readers + writers)
        self._snapshots = self.engine
        if self.engine.dialect.name != "sqlite":
            self._snapshots = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix=f"{actor}-write")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix=f"{actor}-read")
        self._away = ""
        """Why the database did not answer last; empty while it does."""

    @property
    def revision(self) -> str:
        """The revision to which `open` brings the tables."""
        with _scripts(self.actor) as scripts:
            return str(scripts.get_current_head())

    def standing(self) -> tuple[str | None, str, State]:
        """Return the revision of the tables (None: there are none), that of this program, and what that means."""
        from alembic.migration import MigrationContext  # noqa: PLC0415 - see above

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
        """Bring the tables to this program's version. Raises `DatabaseRefused`, `Unavailable`, `OSError`."""
        self._make_folder()
        try:
            if not await self._run(self._writers, self._is_current):
                await self._run(self._writers, lambda: self._again(self._migrate))
        except Unavailable as error:
            raise Unavailable(f"{error} ({self._away})") from error
        except ProgrammingError as error:  # a right is missing
            raise DatabaseRefused(f"the database of the {self.actor} actor: {_reason(error)}") from error

    async def open_patiently(self) -> None:
        """Bring the tables to this program's version, as soon as the database answers. Raises as `open` does."""
        pause, longest = PATIENCE
        while True:
            try:
                return await self.open()
            except Unavailable as error:
                if self.engine.dialect.name == "sqlite":
                    raise
                log.warning("waiting for the database", error=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def health(self) -> str:
        """Return which database it is. Raises `Unavailable` where it did not answer when it was asked last."""
        if self._away:
            raise Unavailable("does not answer: the actor's log says why")  # anybody may see this
        return self.engine.dialect.name

    async def make(self, table: type[SQLModel]) -> None:
        """Make one table, if it is not there, without a revision: for what is worth nothing after a stop."""
        self._make_folder()

        def make() -> None:
            name = str(table.__tablename__)
            try:
                SQLModel.metadata.create_all(self.engine, [SQLModel.metadata.tables[name]])
            except (OperationalError, ProgrammingError, IntegrityError):
                # Another replica may have made it at the same moment.
                if not inspect(self.engine).has_table(name, schema=self._schema):
                    raise

        await self._run(self._writers, make)

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a session that changes nothing. Raises `Unavailable` where the database is away."""
        return await self._run(self._readers, lambda: self._in_session(work, commit=False))

    async def reachable(self) -> None:
        """Return while the database answers. Raises `Unavailable`."""
        await self.read(lambda session: session.connection().exec_driver_sql("SELECT 1"))

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
            result = await asyncio.get_running_loop().run_in_executor(pool, work)
        except SQLAlchemyError as error:
            if not _is_away(error):
                raise
            reason = _reason(error)
            if reason != self._away:
                log.warning("database does not answer", actor=self.actor, reason=reason)
            self._away = reason
            if _state(error) == READ_ONLY:
                self.engine.dispose()  # the other connections lead to the same standby
            raise Unavailable(f"the database of the {self.actor} actor does not answer") from error
        if self._away:
            log.info("database answers again", actor=self.actor)
            self._away = ""
        return result

    @property
    def _schema(self) -> str | None:
        return None if self.engine.dialect.name == "sqlite" else self.actor

    def _in_session(self, work: Callable[[Session], T], *, commit: bool) -> T:
        return self._again(lambda: self._try_in_session(work, commit=commit))

    def _again(self, work: Callable[[], T]) -> T:
        """Run a transaction, and once more where PostgreSQL has taken it back for another's sake."""
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except DBAPIError as error:
                if _state(error) not in TAKEN_BACK:
                    raise
                log.info("transaction taken back, done again", actor=self.actor, reason=_reason(error))
                time.sleep(random.uniform(0, 0.02 * attempt))
        return work()

    def _try_in_session(self, work: Callable[[Session], T], *, commit: bool) -> T:
        with Session(self.engine if commit else self._snapshots, expire_on_commit=False) as session:
            if self.engine.dialect.name == "sqlite":
                session.connection().exec_driver_sql("BEGIN IMMEDIATE" if commit else "BEGIN")
            result = work(session)
            if commit:
                session.commit()
            return result

    def _is_current(self) -> bool:
        """Tell whether the tables are at this program's revision, which is the last file's."""
        with resources.as_file(resources.files("mcpctl.actors").joinpath("migrations", self.actor)) as folder:
            last = max(file.name for file in folder.glob("[0-9]*.py"))
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version", schema=self._schema):
                return False
            versions = Table("alembic_version", MetaData(), Column("version_num"))
            return connection.scalar(select(versions.c.version_num)) == f"{self.actor}_{last[:4]}"

    def _migrate(self, to: str | None = None) -> None:
        """Bring the tables to a revision, that of this program unless one is named."""
        from alembic.migration import MigrationContext  # noqa: PLC0415 - see above
        from alembic.operations import Operations  # noqa: PLC0415

        with _scripts(self.actor) as scripts:
            head = to or scripts.get_current_head()
            with self.engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": self.actor})
                    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout TO 60000"))
                    if not inspect(connection).has_schema(self.actor):  # to ask for it takes a right of its own
                        connection.execute(text(f"CREATE SCHEMA {self.actor}"))
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
                    if connection.dialect.name != "sqlite":
                        self._lock_tables(connection)
                    with Operations.context(context):
                        for script in reversed(list(scripts.iterate_revisions(head, current or "base"))):
                            script.module.upgrade()
                            context.stamp(scripts, script.revision)
                connection.commit()

    def _lock_tables(self, connection: Connection) -> None:
        """Lock all tables at once: who waits for one and holds another meets, time and again, who writes to both."""
        names = inspect(connection).get_table_names(schema=self.actor)
        if not names:
            return
        lock = text(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE NOWAIT")
        give_up = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < give_up:
            try:
                with connection.begin_nested():
                    connection.execute(lock)
            except DBAPIError as error:
                if _state(error) != LOCKED:
                    raise
                time.sleep(random.uniform(0.001, 0.01))
            else:
                return


@contextmanager
def _scripts(actor: str) -> Iterator["ScriptDirectory"]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    with resources.as_file(resources.files("mcpctl.actors").joinpath("migrations")) as folder:
        yield ScriptDirectory(str(folder), version_locations=[str(folder / actor)])


def _is_away(error: SQLAlchemyError) -> bool:
    """Tell whether the database cannot be asked now, rather than that what it was asked is wrong."""
    if isinstance(error, OperationalError | InterfaceError | NoConnection):
        return True
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _state(error) == READ_ONLY)


def _state(error: SQLAlchemyError) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def _reason(error: SQLAlchemyError) -> str:
    """Return what the driver says, in one line. It names hosts and users, and never a password."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _engine(actor: str, url: str, *, durable: bool, connections: int) -> Engine:
    if not url.startswith("sqlite"):
        parsed = make_url(url)
        lasting = () if durable else ("synchronous_commit=off",)
        asked = parsed.query.get("options", "")
        options = " ".join((*(f"-c {option}" for option in (*OPTIONS, *lasting)), str(asked)))
        arguments: dict[str, Any] = {name: value for name, value in LIBPQ.items() if name not in parsed.query} | {
            "options": options.strip(),
            "application_name": parsed.query.get("application_name", f"mcpctl-{actor}"),
        }
        try:
            return create_engine(
                parsed,
                pool_pre_ping=True,
                pool_size=connections,
                max_overflow=0,
                isolation_level="READ COMMITTED",
                hide_parameters=True,  # a failing statement is logged, and its values may be nobody's business
                connect_args=arguments,
                execution_options={"schema_translate_map": {None: actor}},
            )
        except ImportError as error:
            raise DatabaseRefused("PostgreSQL needs its driver: pip install 'mcpctl-bus[postgres]'") from error
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
        return postgresql(url).render_as_string(hide_password=False)
    return f"sqlite:///{data / 'sql' / f'{actor}.sqlite'}"


def postgresql(url: str) -> URL:
    """Read a PostgreSQL URL. Raises `DatabaseRefused`, which says nothing of what is in it."""
    try:
        parsed = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername != "postgresql+psycopg":
        raise DatabaseRefused(
            "the database URL is not of the form postgresql://USER@HOST[:PORT]/DATABASE[?OPTION=VALUE]"
        )
    return parsed
