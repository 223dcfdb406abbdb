"""Counting the ledger in SQL: by mcptoken with all below it, by thing, with digests, and page by page."""

import json

import pytest

from mcpctl.actors.audit_sink.rows import EntryRow, PositionRow
from mcpctl.actors.audit_sink.usage import count
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.contracts import audit
from tests import postgres

PARENT, CHILD, GRANDCHILD, LATER = "a" * 64, "b" * 64, "c" * 64, "d" * 64


def event(kind="call", outcome="allow", sha=PARENT, token="ci", name="read", **more):
    facts = {"kind": kind, "outcome": outcome, "project": "web", "token_name": token, "token_sha": sha, "name": name}
    if kind in ("call", "result"):
        facts |= {"server": "git", "method": "tools/call", "principal": f"token-{token}"}
    return facts | more


EVENTS = (
    event(args="1" * 64, rule="run on tools git/read"),
    event("result"),
    event(args="2" * 64, rule="run on tools git/read"),
    event("result", "error"),
    event(args="2" * 64, rule="run on tools git/read"),
    event("result"),
    event(outcome="deny", name="write", rule="run on tools git/write: not granted\0"),
    event(project="shop"),
    event("token.issue", name="helper"),
    event(sha=CHILD, token="helper"),
    event("token.issue", sha=CHILD, token="helper", name="inner"),
    event("token.issue", "deny", name="stranger"),
    event(sha="e" * 64, token="stranger"),
    event(sha=GRANDCHILD, token="inner"),
    event("token.issue", sha=None, token=None, name="helper"),
    event(sha=LATER, token="helper"),
    event("token.login", sha=None, token=None, name=None, project=None, user="ann"),
)
"""ci calls and issues helper, which issues inner; then somebody else gives the name helper to another."""


@pytest.fixture
async def store(tmp_path):
    """The ledger's tables, as they are at the first start."""
    opened = Store("audit", database_url("audit", postgres.database_url(), tmp_path))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def ask(store):
    """Ask the ledger that holds `EVENTS`, at 1, 2, 3 … milliseconds."""

    def fill(session):
        for seq, facts in enumerate(EVENTS, start=1):
            told = {key: value for key, value in facts.items() if value is not None}
            columns = {key: value for key, value in told.items() if key in EntryRow.model_fields}
            # The rule alone may hold a NUL, which no column of PostgreSQL takes.
            places = {"seq": seq, "number": seq, "at": seq, "event_id": str(seq), "prev": "", "hash": ""}
            session.add(EntryRow(**places, **({"project": "_"} | columns), event=json.dumps(told)))
        session.add(PositionRow(id=1, stream="", seq=1, at=1, last=len(EVENTS), key="", signature=""))

    await store.write(fill)

    async def asked(**fields):
        wanted = audit.Filter(**{key: fields.pop(key) for key in list(fields) if key in audit.Filter.model_fields})
        return await store.read(lambda session: count(session, audit.GetUsage(bearer="", filter=wanted, **fields)))

    return asked


def told(usage):
    return sorted((use.token_name, use.kind, use.outcome, use.name, use.count) for use in usage.items)


async def test_what_an_mcptoken_did_is_summed_up_with_what_those_below_it_did(ask):
    usage = await ask(project="web", token="ci", args=10)

    assert told(usage) == [
        ("ci", "call", "allow", "read", 3),
        ("ci", "call", "deny", "write", 1),
        ("ci", "result", "allow", "read", 2),
        ("ci", "result", "error", "read", 1),
        ("ci", "token.issue", "allow", "helper", 1),
        ("ci", "token.issue", "deny", "stranger", 1),
        ("helper", "call", "allow", "read", 1),
        ("helper", "token.issue", "allow", "inner", 1),
        ("inner", "call", "allow", "read", 1),
    ]
    most = usage.items[0]
    assert (most.method, most.server, most.rule) == ("tools/call", "git", "run on tools git/read")
    assert (most.first, most.last, most.digests, most.args) == (1, 5, 2, ("2" * 64, "1" * 64))
    assert usage.end == len(EVENTS)
    assert told(await ask(project="web", token_sha=CHILD)) == told(usage)[-3:]


async def test_filters_bound_what_is_counted_and_nobody_elses_is_in_it(ask):
    assert told(await ask(project="shop", token="ci")) == [("ci", "call", "allow", "read", 1)]
    assert told(await ask(project="web", token="ci", outcome="deny", kinds=("call",))) == [
        ("ci", "call", "deny", "write", 1)
    ]
    assert [use.count for use in (await ask(project="web", token="ci", tool="git/r*", kind="call")).items] == [3, 1, 1]
    assert (await ask(project="nowhere", token="ci")).items == ()
    (login,) = (await ask(kinds=("token.login",))).items
    assert (login.project, login.user, login.count) == (None, "ann", 1)


async def test_pages_hold_each_use_once_whatever_is_written_between_them(ask, store):
    def ends_at(last):
        return store.write(lambda session: setattr(session.get(PositionRow, 1), "last", last))

    await ends_at(len(EVENTS) - 2)
    whole = await ask(project="web")
    pages = [await ask(project="web", limit=4)]
    await ends_at(len(EVENTS))
    while pages[-1].more:
        pages.append(await ask(project="web", limit=4, offset=4 * len(pages), end=pages[0].end))

    assert len(pages) > 2
    assert [use for page in pages for use in page.items] == list(whole.items)
    assert len((await ask(project="web")).items) > len(whole.items)
