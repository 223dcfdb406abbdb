"""The evaluator's rows as a backup, and back."""

import re

from pydantic import ValidationError

from mcpctl.actors import dumps
from mcpctl.actors.changes import ChangeFeed
from mcpctl.actors.dumps import Row
from mcpctl.actors.rbac_evaluator.rows import BUILT_IN, TABLES
from mcpctl.actors.storage import Store
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bindings import Binding
from mcpctl.bus.contract import Backup, Done, Dump, Restore
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import ADMINS, SUBJECT_PATTERN, may_have
from mcpctl.bus.errors import BadRequest, Conflict


class Backups:
    """Hands all definitions out, and takes them back."""

    def __init__(self, store: Store, changes: ChangeFeed) -> None:
        self._store, self._changes = store, changes

    @handles(rbac.backup)
    async def backup(self, _request: Backup, _caller: Caller) -> Dump:
        return await dumps.dump(self._store, TABLES)

    @handles(rbac.restore)
    async def restore(self, request: Restore, _caller: Caller) -> Done:
        rows = dumps.read(self._store, request.dump, TABLES)
        _demand_sound(rows)
        await self._changes.write(lambda changing: dumps.restore(changing, TABLES, rows))
        return Done()


def _demand_sound(rows: dict[str, list[Row]]) -> None:
    """Raise `BadRequest` for rows that no decision could be taken by, `Conflict` where nobody would be an admin."""
    definitions = {row["name"]: row["bindings"] for row in rows["definitions"]}
    for name, bindings in definitions.items():
        for text in bindings:
            _demand_binding(name, text)
    for row in rows["definition_subjects"]:
        if row["definition"] not in definitions or not re.fullmatch(SUBJECT_PATTERN, row["subject"]):
            raise BadRequest(f"the backup has a subject {row['subject']!r} of definition {row['definition']!r}")
        if not may_have(row["definition"], row["subject"]):
            raise BadRequest(f"the backup has {row['subject']!r} in {row['definition']!r}, which is an mcptoken's own")
    admins = {row["subject"] for row in rows["definition_subjects"] if row["definition"] == ADMINS}
    if definitions.get(ADMINS) != BUILT_IN or admins != {f"Group:{ADMINS}"}:
        raise Conflict(f"the backup lacks the built-in definition {ADMINS}: nobody could put things right")


def _demand_binding(name: str, text: object) -> None:
    try:
        Binding.parse(str(text))
    except (ValidationError, ValueError):
        raise BadRequest(f"the backup has a binding of definition {name!r} that is none: {text!r}") from None
