"""An actor's tables, read and changed beside it, on whichever database the tests run."""

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mcpctl.actors.storage import database_url


class Tables:
    """The tables of one actor: in PostgreSQL's `url`, or, without one, in its file below `folder`."""

    def __init__(self, actor: str, folder: Path, url: str | None) -> None:
        self.actor = actor
        self.engine = create_engine(database_url(actor, url, folder), poolclass=NullPool)

    def ask(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, and return its rows, if it has any."""
        with self.engine.begin() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(text(f"SET LOCAL search_path TO {self.actor}"))
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def number(self, statement: str) -> int:
        """Return the number that a statement finds: 0 where there is no row, or no table yet."""
        try:
            rows = self.ask(statement)
        except SQLAlchemyError:
            return 0
        return int(rows[0][0]) if rows else 0
