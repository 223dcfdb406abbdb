"""What an edit of the ledger's database leaves behind: each is found by `verify`, and where it was made."""

import base64
import hashlib
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlmodel import Session, create_engine

from mcpctl.actors.audit_sink import ledger, purging, verifying
from mcpctl.actors.audit_sink.anchors import AnchorFile, joined
from mcpctl.actors.audit_sink.heads import Notary
from mcpctl.actors.storage import Store
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.streams import StreamState

STREAM = StreamState("2026-01-01", 1, 0)
DAY = 86_400_000
LAST_SEEN = 10
"""Entry of the project `web` whose head was anchored, beside the newest ones."""


class Book:
    """A ledger on its own: `folder` has its database, keyring and anchors."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "audit.sqlite"
        self.store = Store("audit", f"sqlite:///{self.path}")
        self.notary = Notary(folder / "audit-heads.json")
        self.anchors = AnchorFile(folder / "heads.jsonl")

    def write(self, work):
        return self.store._in_session(work, commit=True)

    def open(self):
        self.store._migrate()
        self.write(lambda session: ledger.align(session, self.notary, None, STREAM))
        return self

    def append(self, *events):
        start = self.store._in_session(ledger.position, commit=False).seq + 1
        messages = [
            Stored("mcpctl.v1.audit.append.router", start + n, 1, json.dumps(event).encode(), {})
            for n, event in enumerate(events)
        ]
        appended = self.write(lambda session: ledger.append(session, self.notary, STREAM.created, messages))
        self.notary.written(appended.heads)
        return appended.heads

    def verify(self, project=None, anchors=()):
        """Return the answers of all pages as one list of faults, and what was checked."""
        faults, checked, chains, place = [], 0, [], None
        kept = joined(self.anchors.read(), anchors)
        while True:
            found = self.store._in_session(
                lambda session, place=place: verifying.verify(session, self.notary, kept, project, place), commit=False
            )
            faults += found.faults
            chains += found.chains
            checked += found.checked
            place = found.place
            if place is None:
                return faults, checked, chains

    def execute(self, *statements):
        with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)

    def value(self, statement):
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(statement).fetchone()[0]

    def close(self):
        self.store.engine.dispose()


def event(n, project):
    fields = {"id": f"e{n}", "at": n * DAY, "kind": "call", "outcome": "allow", "principal": "token-ci", "user": "ann"}
    fields |= {"token_name": "ci", "token_sha": "a" * 64, "server": "github", "name": f"tool{n}"}
    return fields | ({"project": project} if project else {})


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Twenty entries of `web`, twenty of `shop`, twenty of no project; some heads of them are anchored."""
    book = Book(tmp_path_factory.mktemp("ledger")).open()
    for n in range(20):
        heads = book.append(*(event(3 * n + i, project) for i, project in enumerate(("web", "shop", None))))
        if n + 1 in {LAST_SEEN, 20}:
            book.anchors.add(heads)
    book.close()
    with closing(sqlite3.connect(book.path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return book.folder


@pytest.fixture
def book(seeded, tmp_path):
    """A copy of that ledger."""
    folder = tmp_path / "copy"
    shutil.copytree(seeded, folder)
    book = Book(folder)
    yield book
    book.close()


def told(faults):
    return {(fault.kind, fault.project, fault.number) for fault in faults}


def test_an_untouched_ledger_has_no_fault(book, monkeypatch):
    faults, checked, chains = book.verify()

    assert faults == []
    assert (checked, [(c.project, c.entries, c.anchors) for c in chains]) == (
        60,
        [("_", 20, 2), ("shop", 20, 2), ("web", 20, 2)],
    )
    assert book.verify("shop")[1] == 20
    monkeypatch.setattr(verifying, "PAGE_SECONDS", 0)
    monkeypatch.setattr(verifying, "ROWS", 7)
    assert book.verify()[:2] == ([], 60), "the same in many answers as in one"


WEB_5 = "WHERE project = 'web' AND number = 5"
COLUMNS = ("kind", "outcome", "principal", "user", "token_name", "token_sha", "server", "name", "event_id")


def swap(column):
    """Exchange a column of the entries 5 and 6 of `web`, through a value that is nobody's."""
    old = f"(SELECT {column} FROM ledger WHERE project = 'web' AND number = {{}})"
    return (
        f"CREATE TEMP TABLE t AS SELECT {old.format(5)} AS five, {old.format(6)} AS six",
        f"UPDATE ledger SET {column} = -1 WHERE project = 'web' AND number = 5",
        f"UPDATE ledger SET {column} = (SELECT five FROM t) WHERE project = 'web' AND number = 6",
        f"UPDATE ledger SET {column} = (SELECT six FROM t) WHERE {column} = -1",
    )


def copied(number, **changed):
    """Insert a copy of entry 5 of `web` with another place."""
    columns = ", ".join(("seq", "project", "number", "prev", "hash", "at", *COLUMNS, "event"))
    values = {"seq": "1000", "event_id": "'forged'", "number": str(number)} | changed
    chosen = ", ".join(values.get(name, name) for name in columns.split(", "))
    return f"INSERT INTO ledger ({columns}) SELECT {chosen} FROM ledger {WEB_5}"


MUTATIONS = {
    "a bit of the text": (
        [f"UPDATE ledger SET event = replace(event, 'tool12', 'tool13') {WEB_5}"],
        {("changed", "web", 5)},
    ),
    "a bit of the hash": (
        [f"UPDATE ledger SET hash = replace(replace(hash, 'a', 'b'), '1', '2') {WEB_5}"],
        {("changed", "web", 5)},
    ),
    "a bit of the hash before": (
        [f"UPDATE ledger SET prev = hash {WEB_5}"],
        {("order", "web", 5), ("changed", "web", 5)},
    ),
    "no hash at all": ([f"UPDATE ledger SET prev = 'none' {WEB_5}"], {("order", "web", 5), ("changed", "web", 5)}),
    "seq": ([f"UPDATE ledger SET seq = 500 {WEB_5}"], {("changed", "web", 5)}),
    "at": ([f"UPDATE ledger SET at = at + 1 {WEB_5}"], {("column", "web", 5)}),
    **{column: ([f"UPDATE ledger SET {column} = 'x' {WEB_5}"], {("column", "web", 5)}) for column in COLUMNS},
    "a column emptied": ([f"UPDATE ledger SET token_name = NULL {WEB_5}"], {("column", "web", 5)}),
    "number": (
        [f"UPDATE ledger SET number = 50 {WEB_5}"],
        {("removed", "web", 5), ("removed", "web", 21), ("unsigned", "web", 21)},
    ),
    "project": (
        [f"UPDATE ledger SET project = 'other' {WEB_5}"],
        {("removed", "web", 5), ("head", "other", None)},
    ),
    "a removed row": ([f"DELETE FROM ledger {WEB_5}"], {("removed", "web", 5)}),
    "a removed first row": (["DELETE FROM ledger WHERE project = 'web' AND number = 1"], {("removed", "web", 1)}),
    "swapped numbers": (swap("number"), {("order", "web", 5), ("order", "web", 6), ("order", "web", 7)}),
    "swapped texts": (swap("event"), {("changed", "web", 5), ("changed", "web", 6)}),
    "swapped places": (swap("seq"), {("changed", "web", 5), ("changed", "web", 6)}),
    "an inserted row at the end": (
        [copied(21)],
        {("order", "web", 21), ("changed", "web", 21), ("unsigned", "web", 21)},
    ),
    "a cut tail": (["DELETE FROM ledger WHERE project = 'web' AND number > 15"], {("cut", "web", 16)}),
    "a chain without its end": (["DELETE FROM ledger_chain WHERE project = 'web'"], {("head", "web", 20)}),
    "another end": (
        ["UPDATE ledger_chain SET number = 15 WHERE project = 'web'"],
        {("head", "web", 15)},
    ),
    "a wrong signature": (
        ["UPDATE ledger_chain SET signature = 'AAAA' || substr(signature, 5) WHERE project = 'web'"],
        {("head", "web", 20)},
    ),
    "another chain's signature": (
        ["UPDATE ledger_chain SET signature = (SELECT signature FROM ledger_chain WHERE project = 'shop')"],
        {("head", "web", 20), ("head", "_", 20)},
    ),
    "an unknown key": (["UPDATE ledger_chain SET key = 'mine' WHERE project = 'web'"], {("head", "web", 20)}),
    "no signature": (["UPDATE ledger_chain SET signature = '', key = '' WHERE project = 'web'"], {("head", "web", 20)}),
    "the position": (["UPDATE ledger_position SET seq = seq + 100"], {("position", None, None)}),
    "no position": (["DELETE FROM ledger_position"], {("position", None, None)}),
    "a purge that never was": (
        [
            (
                "INSERT INTO ledger_purged SELECT project, 5, last, at, key, signature FROM ledger_chain JOIN "
                f"(SELECT hash AS last FROM ledger {WEB_5}) WHERE project = 'web'"
            ),
            "DELETE FROM ledger WHERE project = 'web' AND number <= 5",
        ],
        {("purged", "web", 5), ("removed", "web", 1)},
    ),
    "a whole chain": (
        ["DELETE FROM ledger WHERE project = 'web'", "DELETE FROM ledger_chain WHERE project = 'web'"],
        {("cut", "web", 1), ("removed", None, None)},
    ),
}


@pytest.mark.parametrize(("statements", "expected"), MUTATIONS.values(), ids=list(MUTATIONS))
def test_what_was_changed_in_the_database_is_found_where_it_was_changed(book, statements, expected):
    book.execute(*statements)

    faults, _, _ = book.verify()

    found = told(faults)
    position = {fault for fault in found if fault[0] == "removed" and fault[1] is None}
    assert expected <= found
    assert found - expected <= position, faults


def rewritten(book, start, project="web"):
    """Hash a chain anew from an entry on, as one does who can change the database but has no key."""
    with closing(sqlite3.connect(book.path, isolation_level=None)) as database:
        prev = database.execute(
            "SELECT hash FROM ledger WHERE project = ? AND number = ?", (project, start - 1)
        ).fetchone()[0]
        rows = database.execute(
            "SELECT seq, event FROM ledger WHERE project = ? AND number >= ? ORDER BY number", (project, start)
        ).fetchall()
        for seq, text in rows:
            digest = ledger.chained(prev, seq, text.encode())
            database.execute("UPDATE ledger SET prev = ?, hash = ? WHERE seq = ?", (prev, digest, seq))
            prev = digest


def test_a_chain_that_was_hashed_anew_does_not_fit_what_was_signed(book):
    book.execute(f"UPDATE ledger SET event = replace(event, 'tool12', 'tool99'), name = 'tool99' {WEB_5}")
    rewritten(book, 5)

    faults, _, _ = book.verify()

    assert told(faults) == {("anchor", "web", LAST_SEEN), ("anchor", "web", 20), ("head", "web", 20)}


def test_a_cut_with_an_older_signed_end_is_found_by_the_anchors(book, tmp_path):
    """As by a restore of an old copy: every signature in the database is genuine."""
    shutil.copytree(book.folder, tmp_path / "later")
    later = Book(tmp_path / "later")
    later.append(event(100, "web"), event(101, "web"))
    [head] = later.append(event(102, "web"))
    later.close()

    assert told(book.verify()[0]) == set()
    assert told(book.verify(anchors=[head])[0]) == {("cut", "web", 21)}
    book.anchors.add([head])
    assert told(book.verify()[0]) == {("cut", "web", 21)}
    forged = head.model_copy(update={"number": 40})
    assert told(book.verify(anchors=[forged])[0]) == {("anchor", "web", 40)}


def test_a_sink_that_goes_on_after_a_cut_says_so_in_the_chain_itself(book):
    book.notary.heard(book.anchors.newest())
    book.execute(
        "DELETE FROM ledger WHERE project = 'web' AND number > 15",
        "UPDATE ledger_chain SET number = 15, hash = (SELECT hash FROM ledger WHERE project = 'web' AND number = 15) "
        "WHERE project = 'web'",
    )

    book.append(event(100, "web"), event(101, "shop"))
    book.append(event(102, "web"))

    kinds = "SELECT group_concat(kind) FROM (SELECT kind FROM ledger WHERE project = 'web' ORDER BY number)"
    assert book.value(kinds).split(",")[14:] == ["call", "audit.cut", "call", "call"]
    assert {("noted", "web", 16), ("cut", "web", 19)} <= told(book.verify()[0])
    assert told(book.verify("shop")[0]) == set()


def test_a_failed_transaction_is_not_taken_for_a_cut(book):
    def fail(session):
        ledger.append(session, book.notary, STREAM.created, [Stored("mcpctl.v1.audit.append.router", 61, 1, b"{}", {})])
        raise InterruptedError

    with pytest.raises(InterruptedError):
        book.write(fail)
    book.append(event(100, "web"))

    assert book.verify()[0] == []


# The keyring


def test_the_keyring_of_the_heads_is_for_its_owner_alone_and_is_rotated_without_a_restart(book):
    path = book.folder / "audit-heads.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    old = book.notary.keys.current
    held = json.loads(path.read_text())
    held["keys"]["new"] = base64.b64encode(os.urandom(32)).decode()
    held["current"] = "new"
    path.write_text(json.dumps(held))

    book.notary.refresh()
    heads = book.append(event(100, "web"))

    assert [head.key for head in heads] == ["new"]
    assert book.verify()[0] == [], "what the old key signed still holds"
    assert set(book.notary.keys.public) == {old, "new"}
    del held["keys"][old]
    path.write_text(json.dumps(held))
    os.utime(path, ns=(1, 1))
    book.notary.refresh()
    assert ("head", "shop", 20) in told(book.verify()[0])
    path.write_text("{}")
    book.notary.refresh()
    assert book.append(event(101, "web"))[0].key == "new", "a broken keyring is no reason to stop"


def test_a_ledger_from_before_there_were_keys_is_signed_as_it_stands_but_only_then(book):
    book.execute("UPDATE ledger_chain SET signature = '', key = ''", "UPDATE ledger_position SET signature = ''")
    assert not book.notary.made_keys
    (book.folder / "audit-heads.json").unlink()
    (book.folder / "heads.jsonl").unlink()

    book.notary = Notary(book.folder / "audit-heads.json")
    assert book.notary.made_keys
    book.write(lambda session: ledger.adopt(session, book.notary))

    assert book.verify()[0] == []
    book.execute("UPDATE ledger_chain SET key = 'lost' WHERE project = 'web'")
    book.write(lambda session: ledger.adopt(session, book.notary))
    assert told(book.verify()[0]) == {("head", "web", 20)}, "what another key signed stays so"


# Anchors


def test_the_file_of_anchors_is_put_aside_when_it_is_large_and_forgets_no_chain(book, monkeypatch):
    monkeypatch.setattr("mcpctl.actors.audit_sink.anchors.LIMIT_BYTES", 1000)
    for n in range(20):
        book.anchors.add(book.append(event(100 + n, "web")))

    assert stat.S_IMODE(book.anchors.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in book.folder.glob("heads*")) == ["heads.1.jsonl", "heads.jsonl"]
    assert {head.project: head.number for head in AnchorFile(book.anchors.path).newest()} == {
        "_": 20,
        "shop": 20,
        "web": 40,
    }
    assert book.verify()[0] == []
    with book.anchors.path.open("a") as file:
        file.write('{"cut short')
    assert book.verify()[0] == []


# Purging


def purge(book, project, day):
    before = datetime.fromtimestamp(day * 86_400, UTC)
    with Session(create_engine(f"sqlite:///{book.path}")) as session:
        due = purging.due(session, project, before)
    removed = []
    while due is not None:
        portion = book.write(lambda session: purging.purge(session, book.notary, due, {"principal": "user-ann"}))
        book.notary.written(portion.appended.heads)
        if portion.purged is None:
            break
        removed.append((portion.purged.first, portion.purged.last))
    return removed


def test_what_is_left_of_a_purge_is_verified_and_says_what_was_removed(book, monkeypatch):
    monkeypatch.setattr(purging, "PORTION", 4)

    assert purge(book, "web", 30) == [(1, 4), (5, 8), (9, 10)]
    assert purge(book, "web", 30) == []
    assert purge(book, "shop", 1) == []

    faults, checked, chains = book.verify()
    assert faults == []
    assert (checked, [(c.project, c.entries, c.purged) for c in chains]) == (
        53,
        [("_", 20, 0), ("shop", 20, 0), ("web", 13, 10)],
    )
    told_by = book.value("SELECT event FROM ledger WHERE kind = 'audit.purged' ORDER BY seq")
    assert json.loads(told_by)["detail"] == "entries 1 to 4"
    assert json.loads(told_by)["principal"] == "user-ann"


def test_a_purge_does_not_hide_a_removal(book):
    purge(book, "web", 30)
    book.execute("DELETE FROM ledger WHERE project = 'web' AND number = 11")
    assert told(book.verify()[0]) == {("removed", "web", 11)}

    book.execute("UPDATE ledger_purged SET number = 11, hash = (SELECT prev FROM ledger WHERE number = 12)")
    assert ("purged", "web", 11) in told(book.verify()[0])


def test_a_chain_of_which_all_is_old_can_be_purged_and_goes_on(book):
    assert purge(book, "web", 1000) == [(1, 20)]
    book.append(event(2000, "web"))

    faults, _, chains = book.verify()
    assert faults == []
    assert (chains[-1].entries, chains[-1].purged) == (2, 20)


# Upgrading


def test_a_ledger_of_the_version_before_is_brought_over(book):
    """Back to the tables and the hashes of before, and forward again."""
    with closing(sqlite3.connect(book.path, isolation_level=None)) as database:
        for project in ("web", "shop", "_"):
            prev = ledger.GENESIS
            wanted = "SELECT seq, event FROM ledger WHERE project = ? ORDER BY number"
            for seq, text in database.execute(wanted, (project,)).fetchall():
                digest = hashlib.sha256(bytes.fromhex(prev) + text.encode()).hexdigest()
                database.execute("UPDATE ledger SET prev = ?, hash = ? WHERE seq = ?", (prev, digest, seq))
                prev = digest
    book.execute(
        "DROP TABLE ledger_purged",
        *(f"ALTER TABLE ledger_chain DROP COLUMN {name}" for name in ("at", "key", "signature")),
        *(f"ALTER TABLE ledger_position DROP COLUMN {name}" for name in ("key", "signature")),
        "UPDATE alembic_version SET version_num = 'audit_0001'",
    )
    for path in book.folder.glob("*heads*"):
        path.unlink()

    upgraded = Book(book.folder)
    upgraded.store._migrate()
    upgraded.write(lambda session: ledger.adopt(session, upgraded.notary))

    assert upgraded.verify()[:2] == ([], 60)
    upgraded.append(event(100, "web"))
    assert upgraded.verify()[:2] == ([], 61)
    upgraded.close()
