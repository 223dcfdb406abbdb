"""The registry's rows as a backup, and back: digests as they are, so that bearers and passwords still work."""

from sqlmodel import Session, SQLModel, col, select

from mcpctl.actors import dumps
from mcpctl.actors.changes import ChangeRow, Changing
from mcpctl.actors.dumps import Row
from mcpctl.actors.token_registry.demands import able_admins
from mcpctl.actors.token_registry.memberships import forget_memberships
from mcpctl.actors.token_registry.rows import BearerRow, GroupRow, Records, ServiceAccountRow, UserRow
from mcpctl.actors.token_registry.users import demand_affordable
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.contract import Backup, Done, Dump, Restore
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import Conflict

TABLES: tuple[type[SQLModel], ...] = (GroupRow, UserRow, ServiceAccountRow, BearerRow)

ENDING, CUT = ("revoked", "removed"), "changed"
"""The changes of a token that end it, and the one that lets it end sooner."""


class Backups:
    """Hands all rows out but the login sessions, and takes them back."""

    def __init__(self, records: Records) -> None:
        self._records = records

    @handles(token.backup)
    async def backup(self, _request: Backup, _caller: Caller) -> Dump:
        return await dumps.dump(self._records.store, TABLES, keep=_is_kept)

    @handles(token.restore)
    async def restore(self, request: Restore, _caller: Caller) -> Done:
        rows = dumps.read(self._records.store, request.dump, TABLES)
        for row in rows["users"]:
            demand_affordable(row["name"], row["password_hash"] or None)
        own, now = digest(request.bearer), self._records.clock()
        await self._records.write(lambda changing: _restore(changing, rows, own, now))
        return Done()


def _is_kept(table: str, row: Row) -> bool:
    return table != BearerRow.__tablename__ or row["kind"] != "ses"


def _restore(changing: Changing, rows: dict[str, list[Row]], own: str, now: int) -> None:
    """Replace all rows but the bearer of the one who restores, if its owner is in the backup.

    What does not work at present does not work afterwards: what was ever revoked stays so, what ends sooner now does,
    and who is disabled stays disabled. Raises `Conflict` where nobody could log in as an admin any more.
    """
    session = changing.session
    gone, ends = _revoked(session, now), _ends(session)
    bearers = [row for row in rows["bearers"] if row["kind"] != "ses" and row["sha"] != own]
    for row in bearers:
        if row["sha"] in gone:
            row["revoked_at"], row["active_name"] = row["revoked_at"] or gone[row["sha"]], None
        if row["sha"] in ends:
            row["expires_at"] = min(ends[row["sha"]], row["expires_at"] or ends[row["sha"]])
    disabled = set(session.exec(select(UserRow.name).where(col(UserRow.disabled))))
    for row in rows["users"]:
        row["disabled"] = row["disabled"] or row["name"] in disabled
    asking = session.get(BearerRow, own)
    owners = {"User": rows["users"], "ServiceAccount": rows["service_accounts"]}
    if asking is not None and asking.owner in (row["name"] for row in owners[asking.owner_kind]):
        bearers.append(asking.model_dump())
    groups = list(rows["groups"])
    if ADMINS not in (row["name"] for row in groups):
        groups.append(GroupRow(name=ADMINS, created_at=now).model_dump())
    dumps.restore(changing, TABLES, rows | {"bearers": bearers, "groups": groups})
    forget_memberships(session)
    if not able_admins(session):
        raise Conflict(f"the backup has no enabled user in {ADMINS}: nobody could log in to put things right")


def _revoked(session: Session, now: int) -> dict[str, int]:
    """Return what was ever revoked and when, also of tokens whose rows are not there any more.

    What was rotated away and is not there any more counts as revoked: when it was to end, no row tells.
    """
    changes = select(ChangeRow.key, ChangeRow.action).where(col(ChangeRow.kind) == "token")
    latest = dict(session.exec(changes.order_by(col(ChangeRow.seq))).all())
    revoked_at = dict(session.exec(select(BearerRow.sha, BearerRow.revoked_at)).all())
    ended = {sha for sha, action in latest.items() if action in ENDING or (action == CUT and sha not in revoked_at)}
    return dict.fromkeys(ended, now) | {sha: at for sha, at in revoked_at.items() if at is not None}


def _ends(session: Session) -> dict[str, int]:
    """Return when each bearer ends that does: one that was rotated away ends sooner than it was to."""
    ending = select(BearerRow.sha, BearerRow.expires_at).where(col(BearerRow.expires_at).is_not(None))
    return {sha: at for sha, at in session.exec(ending) if at is not None}
