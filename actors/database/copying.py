"""From the SQLite files of a data folder to PostgreSQL: everything or nothing."""

from collections.abc import Callable, Sequence
from contextlib import closing

from sqlalchemy import Connection, MetaData, Table, create_engine, delete, func, insert, select, text

from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.errors import Conflict

BATCH = 1000
"""Rows that are copied with one statement."""

VERSIONS = "alembic_version"

USED = frozenset({"change_counter", "ledger_position"})
"""Tables in which an actor puts a row at its very first start."""


def copy(sources: Sequence[Store], url: str, tell: Callable[[str], None]) -> None:
    """Copy all rows of some actors in one transaction; the tables are there already, and `tell` hears of each.

    Raises `Conflict` where an actor has worked on them.
    """
    engine = create_engine(database_url("", url), hide_parameters=True)
    try:
        with engine.begin() as target:
            for source in sources:
                _copy_actor(source, target, tell)
    finally:
        engine.dispose()


def _copy_actor(source: Store, target: Connection, tell: Callable[[str], None]) -> None:
    ours, theirs = MetaData(), MetaData()
    theirs.reflect(bind=target, schema=source.actor)
    with closing(source.engine.connect()) as connection:
        connection.exec_driver_sql("BEGIN")
        ours.reflect(bind=connection)
        tables = [table for table in ours.sorted_tables if table.name != VERSIONS]
        places = {table.name: theirs.tables[f"{source.actor}.{table.name}"] for table in tables}
        for place in places.values():
            target.execute(text(f'LOCK TABLE "{place.schema}"."{place.name}" IN EXCLUSIVE MODE'))
            if place.name in USED and target.execute(select(func.count()).select_from(place)).scalar_one():
                raise Conflict(
                    f"an actor has worked on this PostgreSQL database already ({place.fullname}): copy to another"
                )
        for table in reversed(tables):
            target.execute(delete(places[table.name]))  # rows that a migration has made
        for table in tables:
            tell(f"{source.actor}.{table.name}: {_copy_rows(connection, table, target, places[table.name])} rows")


def _copy_rows(source: Connection, table: Table, target: Connection, into: Table) -> int:
    copied = 0
    for rows in source.execute(select(table)).mappings().partitions(BATCH):
        target.execute(insert(into), [dict(row) for row in rows])
        copied += len(rows)
    return copied
