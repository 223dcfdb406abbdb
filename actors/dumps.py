"""All rows of an actor as one text, and back: for backups.

A dump is JSON, compressed and in Base64, since it travels in one message: `{"<table>": [{column: value}]}`.
"""

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import JSON, Boolean, Column, Integer, LargeBinary, String, Table, delete, insert, select
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import Session, SQLModel

from mcpctl.actors.changes import Changing
from mcpctl.actors.storage import Store
from mcpctl.bus.contract import Dump
from mcpctl.bus.errors import BadRequest, Conflict, TooLarge

Row = dict[str, Any]
Tables = Sequence[type[SQLModel]]

LARGEST = 6 * 1024 * 1024
"""Bytes of a dump: what fits into a bus message with room to spare."""

LARGEST_UNPACKED = 512 * 1024 * 1024

LARGEST_NUMBER = 2**63
"""No column holds a number that is not below."""

TYPES: tuple[tuple[type[TypeEngine[Any]], tuple[type, ...]], ...] = (
    (JSON, (dict, list)),
    (Boolean, (bool,)),
    (Integer, (int,)),
    (String, (str,)),
)
"""What a column's type is in a dump. (`python_type` says `object` of some, since SQLAlchemy 2.1.)"""


async def dump(store: Store, tables: Tables, *, keep: Callable[[str, Row], bool] = lambda _table, _row: True) -> Dump:
    """Return all rows of the tables that `keep` wants. Raises `TooLarge`, `Unavailable`."""

    def packed_rows(session: Session) -> str:
        # str: the name is a subclass, which orjson takes for no key
        rows = {str(_table(each).name): _rows(session, _table(each), keep) for each in tables}
        return base64.b64encode(zlib.compress(orjson.dumps(rows), 9)).decode()

    packed = await store.read(packed_rows)
    if len(packed) > LARGEST:
        raise TooLarge(f"the rows of the {store.actor} actor take {len(packed)} bytes: back the database itself up")
    return Dump(actor=store.actor, revision=store.revision, rows=packed)


def read(store: Store, found: Dump, tables: Tables) -> dict[str, list[Row]]:
    """Return the rows of a dump, checked. Raises `BadRequest` where it is damaged, `Conflict` for another version's."""
    if found.actor != store.actor:
        raise BadRequest(f"these are rows of the {found.actor} actor, not of {store.actor}")
    if found.revision != store.revision:
        raise Conflict(
            f"the backup has {store.actor} tables of revision {found.revision}, and these are of {store.revision}: "
            "restore it with the version of mcpctl that wrote it, then update"
        )
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(base64.b64decode(found.rows, validate=True), LARGEST_UNPACKED)
        data = orjson.loads(text) if unpacker.eof else None
    except (binascii.Error, zlib.error, orjson.JSONDecodeError):
        data = None
    if not isinstance(data, dict):
        raise BadRequest(f"the rows of the {store.actor} actor in the backup are damaged")
    unknown = sorted(set(data) - {_table(each).name for each in tables})
    if unknown:
        raise BadRequest(
            f"the backup of the {store.actor} actor has rows of {unknown[0]!r}, which is none of its tables"
        )
    return {_table(each).name: _checked(store.actor, _table(each), data.get(_table(each).name)) for each in tables}


def restore(changing: Changing, tables: Tables, rows: Mapping[str, list[Row]]) -> None:
    """Replace all rows of the tables (in the order of their foreign keys), and begin a new epoch.

    Raises `BadRequest` where rows contradict each other; the caller's transaction ends then, with nothing changed.
    """
    try:
        for each in reversed(tables):
            changing.session.execute(delete(_table(each)))
        for each in tables:
            if rows[_table(each).name]:
                changing.session.execute(insert(_table(each)), rows[_table(each).name])
    except (IntegrityError, DataError) as error:
        raise BadRequest(
            "rows in the backup contradict each other: one is there twice, or refers to one that is missing"
        ) from error
    changing.session.expire_all()
    changing.begin_epoch()


def _table(model: type[SQLModel]) -> Table:
    found: Table = model.__table__  # type: ignore[attr-defined]  # what SQLModel makes of `table=True`
    return found


def _rows(session: Session, table: Table, keep: Callable[[str, Row], bool]) -> list[Row]:
    found = (dict(row) for row in session.execute(select(table)).mappings())
    return [{name: _shown(value) for name, value in row.items()} for row in found if keep(table.name, row)]


def _shown(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _checked(actor: str, table: Table, rows: Any) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadRequest(f"the backup of the {actor} actor has no rows of {table.name}")
    columns = {column.name for column in table.columns}
    unknown = sorted({name for row in rows for name in row.keys() - columns})
    if unknown:
        raise BadRequest(f"the backup of the {actor} actor has a row of {table.name} with the unknown {unknown[0]!r}")
    return [{column.name: _value(actor, column, row) for column in table.columns} for row in rows]


def _value(actor: str, column: "Column[Any]", row: Row) -> Any:
    value = row.get(column.name)
    if value is None and column.nullable:
        return None
    if isinstance(column.type, LargeBinary) and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            value = None
    if type(value) not in _types_of(column) or (type(value) is int and not -LARGEST_NUMBER <= value < LARGEST_NUMBER):
        raise BadRequest(f"the backup of the {actor} actor has a row of {column.table.name} without {column.name}")
    return value


def _types_of(column: "Column[Any]") -> tuple[type, ...]:
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    return next((types for sql, types in TYPES if isinstance(kind, sql)), ())
