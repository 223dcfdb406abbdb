"""Who is through the gates of projects: real actors, and the real bucket of sessions."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from mcpctl.actors.session_gate import SessionGate, endings, gates
from mcpctl.actors.upstream_router.owners import Owners
from mcpctl.bus import permissions
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, cancel
from mcpctl.bus.contracts import gate, session, token
from mcpctl.bus.errors import BadRequest, BusError, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity
from mcpctl.bus.permissions import SESSIONS_BUCKET
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port
from mcpctl.gateway.sessions import Sessions
from tests.actors.test_session_gate import INIT, Replica
from tests.system import System

PATIENCE = 15
RUN_ALL = "role:run,resource:servers"
SHORT_MS = 1000
"""The shortest time that the settings allow."""


@pytest.fixture
async def nats(tmp_path):
    """A server of the test's own: what is listed is what the test did."""
    server = NatsServer(tmp_path / "nats", free_port())
    await server.start()
    await provision(server.url, server.keys)
    yield server
    await server.stop()


class Gate(Replica):
    """One certain SessionGate, asked as routers do."""

    async def begin(self, bearer, project="web", session_key=None, **fields):
        return await self.open_gate(bearer, project, session_key, by="begin_session", **fields)

    async def open_gate(self, bearer, project="web", session_key=None, **fields):
        return await self.ask(gate.open_gate, "router", bearer=bearer, project=project, session=session_key, **fields)

    async def read(self, bearer, project="web", session_key=None, **fields):
        return await self.ask(
            gate.note_reading, "router", bearer=bearer, project=project, session=session_key, **fields
        )

    async def passage(self, bearer, project="web", session_key=None):
        found = await self.ask(gate.find_passage, "router", bearer=bearer, project=project, session=session_key)
        return found.passage

    async def session_of(self, bearer, project="web"):
        """Open a legacy session and return its id and key."""
        opened = await self.open(bearer, project)
        return opened.id, opened.session.key

    async def is_closed(self, bearer, project="web", session_key=None):
        return await self.passage(bearer, project, session_key) is None


@pytest.fixture
async def start(plane):
    """Start a SessionGate, with settings of its own."""
    running = []

    async def start_one(**settings):
        bus = await Bus.connect(plane.nats.url, ActorIdentity("session", plane.nats.keys))
        actor = SessionGate(bus, plane.settings.model_copy(update=settings))
        await actor.start()
        running.append(actor)
        return Gate(actor)

    yield start_one
    for actor in running:
        await actor.stop()


@pytest.fixture
async def one(start):
    return await start()


@pytest.fixture
async def ci(root):
    """The bearer of the mcptoken `ci` of the project `web`."""
    return (await root.issue("web", "ci", RUN_ALL)).bearer


async def until(holds):
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.02)


def passages_of(one):
    return next(part for part in one.gate.parts if isinstance(part, gates.Gates))._passages


async def listed(root, project=None):
    return [(each.project, each.subject) for each in (await root.ask(gate.list_gates, project=project)).items]


# --- opening ---


async def test_who_begins_is_through_for_an_hour_and_what_was_given_is_remembered(one, root, ci):
    before = datetime.now(UTC)
    closed = await one.passage(ci)

    opened = await one.begin(ci, tags=("deploy", "git"), prompts=("how-to-deploy",))

    passage = opened.passage
    assert closed is None
    assert opened.fresh
    assert await one.passage(ci) == passage
    assert (passage.project, passage.subject, passage.sha, passage.session) == ("web", "McpToken:ci", digest(ci), None)
    assert (passage.tags, passage.prompts) == (("deploy", "git"), ("how-to-deploy",))
    assert passage.opened_by == "begin_session"
    assert before <= passage.since <= datetime.now(UTC)
    assert passage.until - passage.since == timedelta(hours=1)


async def test_of_many_who_open_at_once_one_is_told_that_the_gate_was_closed(one, start, root):
    other = await start()
    for number in range(5):
        bearer = (await root.issue("web", f"agent-{number}", RUN_ALL)).bearer

        opened = await asyncio.gather(
            *(
                (one, other)[each % 2].open_gate(bearer, by=("call", "begin_session")[each % 3 > 0], tags=(f"t{each}",))
                for each in range(12)
            )
        )

        assert [each.fresh for each in opened].count(True) == 1
        assert set((await one.passage(bearer)).tags) == {f"t{each}" for each in range(12)}


async def test_every_replica_knows_at_once_who_is_through(one, start, root, ci):
    other = await start()

    for _ in range(20):
        await one.begin(ci)
        assert await other.passage(ci) is not None
        await root.ask(gate.close_gate, project="web")
        assert await one.is_closed(ci)
        assert await other.is_closed(ci)


async def test_after_the_time_the_gate_is_closed_and_opens_afresh(start, root, ci):
    one = await start(token_ungate_ttl_ms=SHORT_MS)
    await one.begin(ci, tags=("old",), prompts=("old",))

    await until(lambda: one.is_closed(ci))
    assert await listed(root) == []
    opened = await one.open_gate(ci, by="call", tags=("new",))

    assert opened.fresh
    assert (opened.passage.tags, opened.passage.prompts, opened.passage.opened_by) == (("new",), (), "call")


async def test_who_follows_is_told_when_the_time_has_passed(start, ci):
    one = await start(token_ungate_ttl_ms=SHORT_MS)
    await one.begin(ci)
    await one.begin(ci)  # the first end counts no more
    position = await one.pull()

    async def is_told():
        return (await one.pull(position.epoch, position.seq)).changes != ()

    await until(is_told)
    (change,) = (await one.pull(position.epoch, position.seq)).changes
    assert (change.kind, change.key, change.action) == ("gate", f"web.{digest(ci)}", "removed")
    assert (await one.begin(ci)).fresh


async def test_the_hour_begins_anew_where_that_is_asked_for_and_not_with_a_call(one, ci):
    first = (await one.begin(ci)).passage

    called = await one.open_gate(ci, by="call", tags=("a",))
    begun = await one.begin(ci, tags=("b",))

    assert not called.fresh
    assert called.passage == first.model_copy(update={"tags": ("a",)})
    assert not begun.fresh
    assert begun.passage.until > first.until
    assert begun.passage.since == first.since
    assert await one.passage(ci) == begun.passage


async def test_a_bearer_that_ends_sooner_is_not_listed_as_through_after_its_end(one, root, plane):
    short = (await root.issue("web", "short", RUN_ALL, ttl_seconds=1)).bearer
    await one.begin(short)
    assert await listed(root) == [("web", "McpToken:short")]

    async def is_gone():
        return await listed(root) == []

    await until(is_gone)


async def test_what_was_given_is_kept_in_order_each_once_and_bounded(one, ci):
    await one.begin(ci, tags=("b", "a", "b"), prompts=("y", "x"))

    merged = (await one.read(ci, tags=("c", "a"), prompts=("x", "z"))).passage
    assert (merged.tags, merged.prompts) == (("b", "a", "c"), ("y", "x", "z"))
    for start_at in (0, 50):
        await one.read(ci, tags=tuple(f"t{number}" for number in range(start_at, start_at + 50)))
    for start_at in (0, 300):
        await one.read(ci, prompts=tuple(f"p{number}" for number in range(start_at, start_at + 300)))

    bounded = await one.passage(ci)
    assert bounded.tags == ("b", "a", "c", *(f"t{number}" for number in range(61)))
    assert bounded.prompts == ("y", "x", "z", *(f"p{number}" for number in range(497)))


async def test_reading_opens_nothing_and_of_one_who_is_not_through_nothing_is_kept(one, root, ci):
    _, key = await one.session_of(ci)

    noted = await one.read(ci, session_key=key, tags=("a",), prompts=("x",))

    assert noted.passage is None
    assert await one.is_closed(ci, session_key=key)
    assert await listed(root) == []


# --- sessions ---


async def test_a_session_that_opened_stays_through_after_the_hour_and_one_that_did_not_does_not(start, root, ci):
    one = await start(token_ungate_ttl_ms=SHORT_MS)
    (_, opener), (_, other) = await one.session_of(ci), await one.session_of(ci)

    opened = await one.begin(ci, session_key=opener, tags=("a",))
    _, later = await one.session_of(ci)
    through = [await one.passage(ci, session_key=key) for key in (opener, other, later)]

    assert opened.fresh
    assert (opened.passage.session, opened.passage.until) == (opener, None)
    assert through[0] == opened.passage
    assert through[1] == through[2] == await one.passage(ci)
    await until(lambda: one.is_closed(ci))
    assert await one.passage(ci, session_key=opener) == opened.passage
    assert await one.is_closed(ci, session_key=other)
    assert await one.is_closed(ci, session_key=later)
    assert (await one.begin(ci, session_key=other)).fresh


async def test_what_a_session_reads_is_kept_for_it_and_for_its_bearer(one, ci):
    (_, first), (_, second) = await one.session_of(ci), await one.session_of(ci)
    await one.begin(ci, session_key=first, tags=("a",))

    noted = (await one.read(ci, session_key=first, tags=("b",))).passage
    await one.read(ci, session_key=second, tags=("c",))

    assert (noted.session, noted.tags) == (first, ("a", "b"))
    assert (await one.passage(ci, session_key=first)).tags == ("a", "b")
    assert (await one.passage(ci)).tags == ("a", "b", "c")


async def test_a_closed_session_takes_its_passage_with_it(one, root, ci):
    session_id, key = await one.session_of(ci)
    await one.begin(ci, session_key=key)
    assert len(await listed(root)) == 2

    await one.close(ci, session_id)

    assert len(await listed(root)) == 1
    with pytest.raises(NotFound):
        await one.passage(ci, session_key=key)

    async def is_removed():
        stored = await one.gate._bucket.last(f"gate.web.{digest(ci)}.{key}")
        return stored.data == b""

    await until(is_removed)
    assert await one.passage(ci) is not None


async def test_a_passage_that_its_closed_session_left_behind_is_not_listed(one, root, ci):
    session_id, key = await one.session_of(ci)
    await one.begin(ci, session_key=key)
    one.gate.parts[0].on_closed.clear()  # as where the replica dies just then

    await one.close(ci, session_id)

    assert [each.session for each in (await root.ask(gate.list_gates)).items] == [None]


async def test_a_session_that_is_closed_beside_the_opening_leaves_no_passage(one, start, root, ci):
    other = await start()
    for _ in range(20):
        session_id, key = await one.session_of(ci)

        await asyncio.gather(one.begin(ci, session_key=key), other.close(ci, session_id), return_exceptions=True)

        assert [each.session for each in (await root.ask(gate.list_gates)).items if each.session] == []


async def test_a_passage_is_written_again_with_its_session_and_so_lasts_as_long(one, ci, monkeypatch):
    session_id, key = await one.session_of(ci)
    passage = (await one.begin(ci, session_key=key)).passage
    bucket, name = one.gate._bucket, f"gate.web.{digest(ci)}.{key}"
    before = (await bucket.last(name)).seq

    await one.set_log_level(ci, session_id, "info")
    await one.gate.bus.tasks.finish(5)
    assert (await bucket.last(name)).seq == before  # it is young still
    monkeypatch.setattr(gates, "BEHIND", -1.0)
    await one.set_log_level(ci, session_id, "debug")
    await one.gate.bus.tasks.finish(5)

    assert (await bucket.last(name)).seq > (await bucket.last(key)).seq
    assert await one.passage(ci, session_key=key) == passage


async def test_a_session_key_must_be_the_bearers_own_in_that_project(one, root, ci):
    other = (await root.issue("web", "other", RUN_ALL)).bearer
    _, of_other = await one.session_of(other)
    _, of_shop = await one.session_of(root.bearer, "shop")

    for bearer, key in ((ci, of_other), (root.bearer, of_shop), (ci, "0" * 64)):
        for ask in (one.passage, one.begin, one.read):
            with pytest.raises(NotFound):
                await ask(bearer, session_key=key)

    assert await listed(root) == []


# --- who is not through ---


async def test_nobody_is_through_by_anothers_passage(one, plane, root, ci):
    other = (await root.issue("web", "other", RUN_ALL)).bearer
    again = await plane.login("root")
    await one.begin(ci)
    await one.begin(root.bearer)

    assert await one.is_closed(other)
    assert await one.is_closed(again.bearer)
    assert await one.is_closed(root.bearer, "shop")
    assert await listed(root) == [("web", "McpToken:ci"), ("web", "User:root")]


async def test_a_token_of_another_project_and_an_unknown_bearer_are_refused(one, ci):
    for ask in (one.passage, one.begin, one.read):
        with pytest.raises(Forbidden, match="no access to project shop"):
            await ask(ci, "shop")
        with pytest.raises(Unauthenticated):
            await ask("mcpctl_pat_wrong")


async def test_a_rotated_token_has_a_new_bearer_which_is_not_through(one, root, ci):
    await one.begin(ci)

    new = (await root.ask(token.rotate, project="web", name="ci")).bearer

    assert await one.is_closed(new)
    assert await one.passage(ci) is not None


# --- closing ---


async def revoke(_plane, root, _ann):
    await root.ask(token.revoke, project="web", name="ci")


async def delete(_plane, root, _ann):
    await root.ask(token.delete, project="web", name="ci")


async def delete_by_id(_plane, root, _ann):
    found = await root.ask(token.describe, project="web", name="ci")
    await root.ask(token.delete_by_id, id=found.id)


@pytest.mark.parametrize("few", [endings.FEW, 0])
@pytest.mark.parametrize("end", [revoke, delete, delete_by_id])
async def test_a_token_that_ends_closes_its_gates_at_once(one, start, plane, root, ci, monkeypatch, end, few):
    monkeypatch.setattr(endings, "FEW", few)  # 0: as where many end
    other = await start()  # both hear of it, and both try
    _, key = await one.session_of(ci)
    await one.begin(ci, session_key=key)
    await one.begin(root.bearer)
    position = await one.pull()

    await end(plane, root, None)

    async def is_gone():
        return await listed(root) == [("web", "User:root")]

    await until(is_gone)
    told = (await other.pull(position.epoch, position.seq)).changes
    assert {(each.kind, each.key, each.action) for each in told} == {
        ("gate", gate.key("web", digest(ci)), "removed"),
        ("gate", gate.key("web", digest(ci), key), "removed"),
    }
    assert len(told) == 2


async def test_a_parents_end_closes_the_gates_of_the_tokens_below(one, root):
    parent = (await root.issue("web", "parent", RUN_ALL, "role:create,resource:mcptokens")).bearer
    child = (await root.holding(parent).issue("web", "child", RUN_ALL)).bearer
    await one.begin(child)

    await root.ask(token.revoke, project="web", name="parent")

    async def is_gone():
        return await listed(root) == []

    await until(is_gone)


async def logout(_plane, _root, ann):
    await ann.ask(token.logout)


async def disable(_plane, root, _ann):
    await root.ask(token.edit_user, name="ann", disabled=True)


async def delete_user(_plane, root, _ann):
    await root.ask(token.delete_user, name="ann")


@pytest.mark.parametrize(("end", "left"), [(logout, ["McpToken:hers"]), (disable, []), (delete_user, [])])
async def test_the_end_of_a_login_session_or_of_its_user_closes_what_is_hers(one, plane, root, end, left):
    await root.add_user("ann", "admins")
    ann = await plane.login("ann")
    hers = (await ann.issue("web", "hers", RUN_ALL)).bearer
    for bearer in (ann.bearer, hers, root.bearer):
        await one.begin(bearer)

    await end(plane, root, ann)

    async def is_so():
        return [subject for _, subject in await listed(root)] == [*left, "User:root"]

    await until(is_so)


async def test_a_user_that_is_enabled_again_begins_again(one, plane, root):
    await root.add_user("ann", "admins")
    hers = (await (await plane.login("ann")).issue("web", "hers", RUN_ALL)).bearer
    await one.begin(hers)
    await root.ask(token.edit_user, name="ann", disabled=True)

    async def is_gone():
        return await listed(root) == []

    await until(is_gone)
    await root.ask(token.edit_user, name="ann", disabled=False)

    assert await one.is_closed(hers)


async def test_an_edited_user_stays_through(one, plane, root):
    await root.add_user("ann", "admins")
    ann = await plane.login("ann")
    await one.begin(ann.bearer)
    await root.ask(token.edit_user, name="ann", labels={"team": "shop"})
    other = (await root.issue("web", "other")).bearer
    await one.begin(other)
    await root.ask(token.revoke, project="web", name="other")

    async def other_is_gone():
        return "McpToken:other" not in [subject for _, subject in await listed(root)]

    await until(other_is_gone)  # a later change of the same feed
    assert await one.passage(ann.bearer) is not None


async def test_a_token_that_is_revoked_beside_the_opening_leaves_no_passage(one, root, ci, monkeypatch):
    passages, swept = passages_of(one), asyncio.Event()
    write, remove_all = passages.write, passages.remove_all

    async def noted_removal(*args):
        removed = await remove_all(*args)
        swept.set()
        return removed

    async def late_write(*args, **fields):
        await root.ask(token.revoke, project="web", name="ci")
        await swept.wait()
        monkeypatch.setattr(passages, "write", write)
        return await write(*args, **fields)

    monkeypatch.setattr(passages, "remove_all", noted_removal)
    monkeypatch.setattr(passages, "write", late_write)

    with pytest.raises(Unauthenticated):
        await one.begin(ci)

    assert swept.is_set()
    assert await listed(root) == []


async def test_many_that_end_at_once_all_close(one, plane, root):
    await root.add_user("ann", "admins")
    ann = await plane.login("ann")
    hers = [(await ann.issue("web", f"agent-{number}", RUN_ALL)).bearer for number in range(2 * endings.FEW)]
    await asyncio.gather(*(one.begin(bearer) for bearer in (*hers, root.bearer)))
    assert len(await listed(root)) == len(hers) + 1

    await root.ask(token.delete_user, name="ann")

    async def hers_are_gone():
        return await listed(root) == [("web", "User:root")]

    await until(hers_are_gone)


async def test_a_gate_that_could_not_be_closed_at_once_is_closed_later(one, root, ci, monkeypatch):
    monkeypatch.setattr(endings, "PAUSE", 0.01)
    passages, failures = passages_of(one), []
    remove_all = passages.remove_all

    async def failing(*args):
        if len(failures) < 3:
            failures.append(args)
            raise Unavailable("no leader")
        return await remove_all(*args)

    monkeypatch.setattr(passages, "remove_all", failing)
    await one.begin(ci)
    await root.ask(token.revoke, project="web", name="ci")

    async def is_gone():
        return await listed(root) == []

    await until(is_gone)
    assert len(failures) == 3


async def test_a_gate_is_closed_behind_one_or_behind_everybody(one, root, ci):
    other = (await root.issue("web", "other", RUN_ALL)).bearer
    in_shop = (await root.issue("shop", "ci", RUN_ALL)).bearer
    _, key = await one.session_of(ci)
    await one.begin(ci, session_key=key)
    for bearer, project in ((other, "web"), (root.bearer, "web"), (in_shop, "shop")):
        await one.begin(bearer, project)

    closed = [
        (await root.ask(gate.close_gate, project="web", subject=subject)).closed
        for subject in ("McpToken:ci", "McpToken:ci", "User:nobody", "User:root", "ServiceAccount:root")
    ]

    assert closed == [2, 0, 0, 1, 0]
    assert await listed(root) == [("shop", "McpToken:ci"), ("web", "McpToken:other")]
    assert await one.is_closed(ci, session_key=key)
    assert (await root.ask(gate.close_gate, project="web")).closed == 1
    assert await listed(root) == [("shop", "McpToken:ci")]
    assert (await one.begin(ci)).fresh


async def test_closing_is_audited_with_who_and_whom(one, root, ci):
    events = []
    append = one.gate.audit.append
    one.gate.audit.append = lambda event: events.append(event) or append(event)
    await one.begin(ci)
    stranger = root.holding((await root.issue("web", "stranger")).bearer)

    await root.ask(gate.close_gate, project="web", subject="McpToken:ci")
    await root.ask(gate.close_gate, project="web", subject="User:ann")
    await root.ask(gate.close_gate, project="web")
    with pytest.raises(Forbidden):
        await stranger.ask(gate.close_gate, project="web", subject="McpToken:ci")

    assert {(each["kind"], each["project"]) for each in events} == {("session.close_gate", "web")}
    assert [(each["outcome"], each["name"], each["principal"]) for each in events] == [
        ("allow", "ci", "user-root"),
        ("allow", "User:ann", "user-root"),
        ("allow", None, "user-root"),
        ("deny", "ci", "token-stranger"),
    ]


async def test_who_may_see_and_delete_mcptokens_may_see_and_close_gates_and_nobody_else(one, plane, root, ci):
    await one.begin(ci)
    await root.add_user("ann")
    ann = await plane.login("ann")

    for ask in (ann.ask(gate.list_gates, project="web"), ann.ask(gate.close_gate, project="web")):
        with pytest.raises(Forbidden):
            await ask
    await root.grant("viewers", "User:ann", "role:view,resource:mcptokens", project="web")
    assert await listed(ann, "web") == [("web", "McpToken:ci")]
    for project in (None, "shop"):
        with pytest.raises(Forbidden):
            await listed(ann, project)
    with pytest.raises(Forbidden):
        await ann.ask(gate.close_gate, project="web", subject="McpToken:ci")
    await root.grant("closers", "User:ann", "role:delete,resource:mcptokens,name:ci", project="web")
    for subject in (None, "McpToken:other", "User:root"):
        with pytest.raises(Forbidden):
            await ann.ask(gate.close_gate, project="web", subject=subject)

    assert (await ann.ask(gate.close_gate, project="web", subject="McpToken:ci")).closed == 1


async def test_what_is_no_subject_is_refused(one, root):
    request = gate.CloseGate.model_construct(bearer=root.bearer, project="web", subject="Group:devs")

    with pytest.raises(BadRequest, match="subject"):
        await root.bus.call(gate.close_gate, request)


async def test_the_list_can_be_narrowed_to_a_project_and_is_in_order(one, root, ci):
    in_shop = (await root.issue("shop", "agent", RUN_ALL)).bearer
    first = (await root.issue("web", "a", RUN_ALL)).bearer
    for bearer, project in ((ci, "web"), (first, "web"), (in_shop, "shop"), (root.bearer, "shop")):
        await one.begin(bearer, project)

    assert await listed(root, "web") == [("web", "McpToken:a"), ("web", "McpToken:ci")]
    assert await listed(root) == [
        ("shop", "McpToken:agent"),
        ("shop", "User:root"),
        ("web", "McpToken:a"),
        ("web", "McpToken:ci"),
    ]


async def test_the_bucket_holds_no_bearer(one, ci):
    _, key = await one.session_of(ci)
    await one.begin(ci, session_key=key)

    for name in await one.gate._bucket.keys(">"):
        assert ci not in name
        assert ci.encode() not in (await one.gate._bucket.last(name)).data


# --- who follows ---


async def test_every_change_is_told_and_numbered(one, plane, root, ci):
    heard = asyncio.Queue()
    router = await plane.actor("router")
    await router.listen(session.feed.changed, heard.put)
    await router.ready()
    position = await one.pull()
    _, key = await one.session_of(ci)

    await one.begin(ci, session_key=key)
    await one.read(ci, tags=("a",))
    await one.read(ci, tags=("a",))  # nothing new: no change
    await root.ask(gate.close_gate, project="web")

    sha = digest(ci)
    pulled = (await one.pull(position.epoch, position.seq)).changes
    assert [(each.kind, each.key, each.action) for each in pulled[:4]] == [
        ("session", key, "created"),
        ("gate", f"web.{sha}", "created"),
        ("gate", f"web.{sha}.{key}", "created"),
        ("gate", f"web.{sha}", "changed"),
    ]
    assert {(each.kind, each.key, each.action) for each in pulled[4:]} == {
        ("gate", f"web.{sha}", "removed"),
        ("gate", f"web.{sha}.{key}", "removed"),
    }
    async with asyncio.timeout(5):
        told = [await heard.get() for _ in pulled]
    assert sorted((each.change for each in told), key=lambda change: change.seq) == list(pulled)
    assert {each.epoch for each in told} == {position.epoch}


async def test_an_answer_says_as_of_which_change_it_is_true(one, ci):
    opened = await one.open(ci)
    asked = {"bearer": ci, "project": "web", "session": opened.session.key}
    closed = await one.ask(gate.find_passage, "router", **asked)
    await one.begin(ci, session_key=opened.session.key)
    found = await one.ask(gate.find_passage, "router", **asked)
    noted = await one.ask(gate.note_reading, "router", **asked, tags=("a",))

    assert {each.epoch for each in (closed, found, noted)} == {opened.epoch}
    assert [each.seq - opened.seq for each in (closed, found, noted)] == [0, 2, 4]


async def test_gateways_and_routers_do_not_take_a_passage_for_a_session(one, plane, root, ci):
    edge = await root.ask(token.create_service_account, name="edge")
    issued = await root.ask(token.issue_service_account_token, name=edge.name)
    bus = await plane.connect(AdmittedIdentity("gateway", issued.bearer))
    sessions, owners = Sessions(bus), Owners(await plane.actor("router"), "r" + "0" * 12)
    await sessions.follower.start()
    await owners.sessions.start()
    heard = asyncio.Queue()
    owners.sessions.on_change.append(heard.put_nowait)
    running = [asyncio.create_task(each.run()) for each in (sessions.follower, owners.sessions)]
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(sessions.follower.first_lease(), owners.sessions.first_lease())
        session_id = await sessions.open(session.OpenSession(bearer=ci, project="web", **INIT))
        found = await sessions.find(session_id, ci, "web", None)

        await one.begin(ci, session_key=found.key)
        await root.ask(gate.close_gate, project="web")

        async with asyncio.timeout(5):
            changes = [await heard.get() for _ in range(5)]
        await sessions.follower.catch_up()
        assert [change.kind for change in changes] == ["session", *["gate"] * 4]
        assert sessions._cache.peek(session_id) == found
        assert owners._closed == {}
    finally:
        await cancel(*running)


def test_routers_alone_may_ask_and_note_and_no_gateway_may_open_a_gate():
    router, gateway = permissions.of("router", "router"), permissions.of("gateway", "gateway-x")

    for verb in ("find_passage", "open_gate", "note_reading"):
        assert f"mcpctl.v1.session.{verb}.router" in router.publish
        assert not any(f".session.{verb}." in subject for subject in gateway.publish)
    for verb in ("list_gates", "close_gate"):
        assert f"mcpctl.v1.session.{verb}.gateway-x" in gateway.publish  # the REST routes, for the bearer inside
        assert not any(f".session.{verb}." in subject for subject in router.publish)


# --- real processes ---


@asynccontextmanager
async def processes(plane, folder):
    """SessionGates as processes of their own, on the plane's bus."""
    system = System(folder)
    system.nats = plane.nats
    try:
        yield system
    finally:
        for part in system.parts.values():
            if part.process.returncode is None:
                await part.kill()


async def eventually(ask):
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await ask()
            except BusError as error:
                assert error.http_status >= 500
                await asyncio.sleep(0.05)


async def test_a_killed_gate_loses_no_passage_and_opens_none_twice(plane, root, tmp_path):
    bearers = [(await root.issue("web", f"agent-{number}", RUN_ALL)).bearer for number in range(10)]
    router = await plane.actor("router")

    async def ask(call, bearer, **fields):
        return await eventually(lambda: router.call(call, call.request(bearer=bearer, project="web", **fields)))

    async with processes(plane, tmp_path) as system:
        await system.run("gate-1", "mcpctl.actors", "session")
        await system.run("gate-2", "mcpctl.actors", "session")
        for bearer in bearers:
            opened = await asyncio.gather(*(ask(gate.open_gate, bearer, by="call") for _ in range(6)))
            assert [each.fresh for each in opened].count(True) == 1
        for number in range(3, 6):
            await system.parts[f"gate-{number - 2}"].kill()
            for bearer in bearers:
                assert (await ask(gate.find_passage, bearer)).passage is not None
                assert not (await ask(gate.open_gate, bearer, by="call")).fresh
            await system.run(f"gate-{number}", "mcpctl.actors", "session")
        await root.ask(token.revoke, project="web", name="agent-0")

        async def is_gone():
            return ("web", "McpToken:agent-0") not in await eventually(lambda: listed(root))

        await until(is_gone)
        assert len(await listed(root)) == len(bearers) - 1


async def test_passages_survive_a_restart_of_the_server(one, plane, root, ci):
    passage = (await one.begin(ci, tags=("a",))).passage

    await plane.nats.stop()
    await plane.nats.start()

    assert await eventually(lambda: one.passage(ci)) == passage


async def test_more_keys_than_one_answer_holds_are_all_found(one, plane):
    """JetStream names 100,000 subjects in one answer at the most."""
    streams, count = one.gate._bucket.streams, 100_500
    expected = (await streams.state(f"KV_{SESSIONS_BUCKET}")).last + count
    for number in range(count):
        await streams.client.publish(f"$KV.{SESSIONS_BUCKET}.many.{number:06d}", b"")
        if number % 2000 == 0:
            await streams.client.flush(timeout=10)
    await streams.client.flush(timeout=10)

    async def all_stored():
        return (await streams.state(f"KV_{SESSIONS_BUCKET}")).last == expected

    await until(all_stored)
    assert await one.gate._bucket.keys("many.*") == [f"many.{number:06d}" for number in range(count)]
