"""Revoking bearers: an mcptoken with all that was issued below it. All tokens of a tree have one owner."""

from collections.abc import Iterable, Sequence

from sqlmodel import Session, col, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.rows import BearerRow
from mcpctl.bus.errors import NotFound


def find_named(session: Session, project: str, name: str) -> Sequence[BearerRow]:
    """Return the mcptokens of a name, the one that holds the name first, then the newest. Raises `NotFound`."""
    named = (col(BearerRow.project) == project, col(BearerRow.name) == name)
    rows = session.exec(select(BearerRow).where(col(BearerRow.kind) == "pat", *named)).all()
    if not rows:
        raise NotFound(f"project {project} has no mcptoken {name}")
    return sorted(rows, key=lambda row: (row.active_name is None, -row.created_at))


def working(rows: Iterable[BearerRow], now: int) -> list[BearerRow]:
    """Return those that are neither revoked nor expired: beside the holder of a name one that was rotated may be."""
    return [row for row in rows if row.revoked_at is None and (row.expires_at is None or row.expires_at > now)]


def live_tree(session: Session, row: BearerRow) -> list[BearerRow]:
    """Return what is not revoked of an mcptoken, all below it, and those by which mcptokens have replaced one of them.

    Otherwise a bearer in the wrong hands would outlive its revocation by rotating itself in time.
    """
    rows = session.exec(
        select(BearerRow).where(col(BearerRow.kind) == "pat", col(BearerRow.project) == row.project)
    ).all()
    tree, grown = {row.sha}, True
    while grown:
        further = {other.sha for other in rows if other.replaces in tree or not tree.isdisjoint(other.parents)}
        grown = not further <= tree
        tree |= further
    found = [row, *(other for other in rows if other.sha in tree and other.sha != row.sha)]
    return [each for each in found if each.revoked_at is None]


def revoke_trees(changing: Changing, rows: Iterable[BearerRow], now: int) -> list[str]:
    """Revoke mcptokens and all below them; return the SHA-256 of each. What is revoked already stays as it is."""
    gone: list[str] = []
    for row in rows:
        for each in live_tree(changing.session, row):
            revoke(changing, each, now)
            gone.append(each.sha)
    return gone


def cut_tree(changing: Changing, row: BearerRow, until: int) -> None:
    """Let an mcptoken and all below it expire at `until`, those that would not have expired before."""
    for each in live_tree(changing.session, row):
        if each.expires_at is None or each.expires_at > until:
            each.expires_at = until
            changing.session.add(each)
            changing.record("token", each.sha, "changed")


def revoke_all(
    changing: Changing, owner_kind: str, owner: str, now: int, *, kind: str | None = None, but: str = ""
) -> list[str]:
    """Revoke an owner's bearers (of one kind, if given), all but the one of SHA-256 `but`.

    Return the SHA-256 of the mcptokens among them.
    """
    rows = changing.session.exec(
        select(BearerRow).where(
            col(BearerRow.owner_kind) == owner_kind, col(BearerRow.owner) == owner, col(BearerRow.revoked_at).is_(None)
        )
    )
    gone = [row for row in rows if row.sha != but and kind in (None, row.kind)]
    for row in gone:
        revoke(changing, row, now)
    return [row.sha for row in gone if row.kind == "pat"]


def revoke(changing: Changing, row: BearerRow, now: int) -> None:
    """Revoke one bearer, and record it."""
    row.revoked_at, row.active_name = now, None
    changing.session.add(row)
    changing.record("token", row.sha, "revoked")
