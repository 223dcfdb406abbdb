"""Servers that are placed on a site: one router there, behind an ingress that can swallow all that is said."""

import asyncio
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog, router, session, token
from mcpctl.bus.contracts.router import ServerStates
from mcpctl.bus.errors import Forbidden, Unavailable
from mcpctl.bus.frames import ACCEPT_AFTER, Reply, decode_request, encode, present_subject, router_subject
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity, router_id
from tests.gateway.peers import UPSTREAM, sdk_client
from tests.gateway.raw_session import RawSession, events_of
from tests.gateway.test_edge import headers, modern
from tests.ingress import Ingress
from tests.installation import parent_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "counting.py")
MISSED = 9.0
"""Seconds in which a call that was at a router learns that it is gone: three of its beats, and some for the machine."""


class Lab:
    """The site `lab`: its router's process, the ingress in front of it, and its credential."""

    def __init__(self, system, ingress):
        self.system, self.ingress = system, ingress
        self.router = None

    async def create(self):
        """Create the credential, the servers `bench` and `counter` there, and the project `spread` beside `dual`."""
        system, ask = self.system, self.system.operator.call
        await ask(
            token.create_service_account,
            token.CreateServiceAccount(bearer=system.bearer, name="lab-router", router_site="lab"),
        )
        issue = token.IssueServiceAccountToken(bearer=system.bearer, name="lab-router")
        self.issued = await ask(token.issue_service_account_token, issue)
        for name in ("lab-key", "centre-key"):
            secret = catalog.CreateSecret(bearer=system.bearer, name=name, value=f"the {name}")
            await ask(catalog.create_secret, secret)
        key = {"KEY": "secret:lab-key"}
        await system.server("bench", command=(sys.executable, UPSTREAM, "--stdio"), env=key, placement="lab")
        await system.server("counter", command=(sys.executable, COUNTING), isolation="session", placement="lab")
        await system.server("at-home", command=(sys.executable, COUNTING), env={"KEY": "secret:centre-key"})
        await system.project("spread", "dual", "bench", "counter", "at-home")
        system.tokens["spread"] = await system.token("spread", "agent", "role:run,resource:servers")

    async def start(self):
        """Start the site's router: with its credential, and without the keys of the bus or a folder of its own."""
        self.router = await self.run("lab-router")
        await self.seen(present=True)

    async def run(self, name):
        """Start a router of the site under a name."""
        file = self.system.folder / "lab.token"
        file.write_text(self.issued.bearer)
        return await self.system.run(
            name,
            "mcpctl.actors",
            "router",
            MCPCTL_NATS_URL=self.ingress.url,
            MCPCTL_NATS_CA=str(self.ingress.ca),
            MCPCTL_NATS_KEYS="/nowhere",
            MCPCTL_DATA_DIR="/nowhere",
            MCPCTL_NATS_TOKEN_FILE=str(file),
            MCPCTL_ROUTER_SITE="lab",
        )

    async def states(self):
        """What the other routers say of the site's routers."""
        asked = router.GetServerStates(bearer=self.system.bearer)
        answers = await self.system.operator.ask_everyone(router.server_states, asked, patience=2)
        return [{each.router: each for each in answer.sites} for answer in answers]

    async def seen(self, *, present):
        """Return once both routers of the default group see the site's router, or see it no more."""
        async with asyncio.timeout(20):
            while True:
                states = await self.states()
                there = [any(each.present for each in sites.values()) for sites in states]
                if len(states) == 2 and all(each is present for each in there):
                    return
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_lab(running_system, tmp_path_factory):
    await running_system.wake()
    async with Ingress.before(running_system.nats.websocket_port, tmp_path_factory.mktemp("ingress")) as ingress:
        lab = Lab(running_system, ingress)
        await lab.create()
        await lab.start()
        yield lab


@pytest_asyncio.fixture(loop_scope="session")
async def lab(system, running_lab):
    return running_lab


@pytest_asyncio.fixture(loop_scope="session")
async def http(system):
    async with aiohttp.ClientSession() as session:
        yield session


async def call(http, lab, tool, *, gateway=0, bearer=None, **arguments):
    """Return status and body of a call of a stateless client."""
    body = modern("tools/call", name=tool, arguments=arguments)
    sent = headers(bearer or lab.system.tokens["spread"], "tools/call", Mcp_Name=tool)
    async with http.post(f"{lab.system.urls[gateway]}/projects/spread/mcp", json=body, headers=sent) as answer:
        return answer.status, await answer.json()


async def listed(http, lab):
    sent = headers(lab.system.tokens["spread"])
    async with http.post(f"{lab.system.urls[0]}/projects/spread/mcp", json=modern(), headers=sent) as answer:
        result = (await answer.json())["result"]
    return {tool["name"] for tool in result["tools"]}, result["_meta"].get("mcpctl/unavailable", {})


async def test_calls_of_a_placed_server_are_carried_out_at_its_site_and_all_others_are_not(lab, http):
    for gateway in (0, 1, 0, 1):
        status, body = await call(http, lab, "bench__echo", gateway=gateway, text="over there")
        assert (status, body["result"]["content"][0]["text"]) == (200, "over there")
        assert (await call(http, lab, "dual__echo", gateway=gateway, text="here"))[0] == 200
    _, here = await call(http, lab, "at-home__count_up")
    _, there = await call(http, lab, "counter__count_up")

    assert parent_of(there["result"]["structuredContent"]["process"]) == lab.router.process.pid
    assert parent_of(here["result"]["structuredContent"]["process"]) != lab.router.process.pid
    assert lab.ingress.accepted == 1


async def test_lists_of_a_project_hold_what_its_sites_offer(lab, http):
    names, unavailable = await listed(http, lab)

    assert {"dual__echo", "bench__echo", "counter__count_up", "at-home__count_up"} <= names
    assert unavailable == {}
    async with sdk_client(f"{lab.system.urls[1]}/projects/spread/mcp", lab.system.tokens["spread"], "auto") as client:
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert {"dual__greet", "bench__greet"} <= prompts
        greeting = await client.get_prompt("bench__greet", {"name": "Ann"})
        assert "Ann" in greeting.messages[0].content.text
        note = next(r.uri for r in (await client.list_resources()).resources if str(r.uri).startswith("bench+"))
        assert (await client.read_resource(note)).contents


async def test_a_gate_is_told_of_once_and_holds_at_a_placed_server_too(lab, http):
    await lab.system.project("briefed", "dual", "bench", gate={"mode": "brief"})
    bearer = await lab.system.token("briefed", "agent", "role:run,resource:servers")
    async with sdk_client(f"{lab.system.urls[0]}/projects/briefed/mcp", bearer, "legacy") as client:
        gate = {"begin_session", "read_prompts"}
        assert {tool.name for tool in (await client.list_tools()).tools} == gate
        first = await client.call_tool("bench__echo", {"text": "briefed"})
        assert [block.text for block in first.content][-1] == "briefed"
        assert len(first.content) == 2
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert {"dual__echo", "bench__echo", *gate} <= listed
        assert not any(name.endswith(("__begin_session", "__read_prompts")) for name in listed)


async def test_what_a_placed_server_writes_is_read_by_way_of_the_centre(lab):
    await lab.system.server("chatty", command=("sh", "-c", "echo hello from afar >&2; cat"), placement="lab")
    await lab.system.project("chat", "chatty")
    bearer = await lab.system.token("chat", "agent", "role:run,resource:servers")
    async with aiohttp.ClientSession() as http:
        await http.post(f"{lab.system.urls[0]}/projects/chat/mcp", json=modern(), headers=headers(bearer))
    asked = router.ReadLog(bearer=lab.system.bearer, name="chatty")
    async with asyncio.timeout(20):
        while True:
            logs = await lab.system.operator.ask_everyone(router.read_log, asked, patience=2)
            lines = [[line.text for log in answer.sites for line in log.lines] for answer in logs]
            if len(lines) == 2 and all("hello from afar" in each for each in lines):
                break
            await asyncio.sleep(0.1)


async def calls_at(http, part):
    """Return the lines in which a router has counted calls."""
    async with http.get(f"{part.metrics}/metrics") as answer:
        return [line for line in (await answer.text()).splitlines() if line.startswith("mcpctl_calls_total")]


async def test_what_may_not_be_called_there_never_gets_there(lab, http):
    narrow = await lab.system.token("spread", "narrow", "role:run,resource:servers,name:dual")
    before = await calls_at(http, lab.system.parts["lab-router"])

    status, body = await call(http, lab, "bench__echo", bearer=narrow, text="x")

    assert (status, body["error"]["message"]) == (200, "Unknown tool: bench__echo")
    assert await calls_at(http, lab.system.parts["lab-router"]) == before


async def asked_for_a_colour(lab, http):
    """Return the result of a call of an old client that its server asks something before."""
    client = await RawSession.open(http, lab.system, "spread")
    async with asyncio.timeout(20), client.call("bench__ask_colour") as answer:
        events = events_of(answer)
        async for event in events:
            if event.message and event.message.get("method") == "elicitation/create":
                break
        said = {"action": "accept", "content": {"colour": "green"}}
        assert await client.answer(event.message["id"], gateway=1, result=said) == 202
        last = [each.message async for each in events][-1]
    return str(last["result"]["content"])


async def test_a_question_of_a_placed_server_reaches_an_old_client_and_its_answer_the_parked_call(lab, http):
    assert "green" in await asked_for_a_colour(lab, http)


async def test_two_routers_of_a_site_share_its_calls_and_one_that_stops_is_not_missed(lab, http):
    second = await lab.run("lab-router-2")
    async with asyncio.timeout(20):
        while [sum(each.present for each in sites.values()) for sites in await lab.states()] != [2, 2]:
            await asyncio.sleep(0.1)
    for _ in range(4):
        assert "green" in await asked_for_a_colour(lab, http)
    clients = [await RawSession.open(http, lab.system, "spread", gateway=n % 2) for n in range(6)]
    parents = set()
    for turn in (1, 2, 3):
        for client in clients:
            counted = (await client.asked("counter__count_up", gateway=turn % 2))["structuredContent"]
            assert counted["count"] == turn
            parents.add(parent_of(counted["process"]))
    assert parents == {lab.router.process.pid, second.process.pid}

    stopping = asyncio.create_task(second.stop())
    while not stopping.done():
        status, body = await call(http, lab, "bench__echo", text="x")
        assert status == 200, body
    assert await stopping == 0


async def test_a_session_keeps_its_state_at_a_placed_server(lab, http):
    clients = [await RawSession.open(http, lab.system, "spread", gateway=n) for n in (0, 1)]
    for turn in (1, 2, 3):
        for client in clients:
            counted = (await client.asked("counter__count_up", gateway=turn % 2))["structuredContent"]
            assert counted["count"] == turn


async def test_changes_of_a_placed_server_reach_who_listens_in_the_centre(lab, http):
    session = await RawSession.open(http, lab.system, "spread", gateway=1)
    async with asyncio.timeout(20), session.listening(1) as events:
        await asyncio.sleep(0)
        assert (await call(http, lab, "bench__toggle", kind="tools"))[0] == 200
        async for event in events:
            if event.method == "notifications/tools/list_changed":
                break
    await call(http, lab, "bench__toggle", kind="tools")


async def test_secrets_are_unsealed_only_for_the_site_of_their_server(lab):
    system, bearer = lab.system, lab.system.tokens["spread"]
    there = await Bus.connect(system.nats.url, AdmittedIdentity("router", lab.issued.bearer, site="lab"))
    try:
        asked = catalog.Unseal(bearer=bearer, project="spread", server="bench")
        assert (await there.call(catalog.unseal, asked)).env == {"KEY": "the lab-key"}
        for server in ("dual", "at-home"):
            with pytest.raises(Forbidden, match=f"server {server} is not placed on site lab"):
                await there.call(catalog.unseal, asked.model_copy(update={"server": server}))
        with pytest.raises(Forbidden, match="router r000000000000 is another one"):
            await there.call(session.keep, session.KeepRouter(router="r000000000000"))
    finally:
        await there.close()
    here = await Bus.connect(system.nats.url, ActorIdentity("router", system.nats.keys))
    try:
        with pytest.raises(Forbidden, match="server bench is not placed on the default routers"):
            await here.call(catalog.unseal, asked)
    finally:
        await here.close()


async def test_the_credential_of_a_site_is_good_for_nothing_else(lab, http):
    url, bearer = lab.system.nats.url, lab.issued.bearer
    for identity in (
        AdmittedIdentity("router", bearer, site="other"),
        AdmittedIdentity("gateway", bearer),
        AdmittedIdentity("operator", bearer),
        AdmittedIdentity("router", lab.system.bearer, site="lab"),
    ):
        with pytest.raises(Unavailable, match="refused the connection"):
            await Bus.connect(url, identity)

    assert (await call(http, lab, "dual__echo", bearer=bearer, text="x"))[0] == 401


class Rogue:
    """Somebody with the credential of the site, who takes what he is sent and answers what he likes."""

    def __init__(self, bus):
        self.bus, self.heard = bus, []
        self.called = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def among(cls, lab):
        identity = AdmittedIdentity("router", lab.issued.bearer, site="lab")
        rogue = cls(await Bus.connect(lab.system.nats.url, identity))
        try:
            own = router_subject(router_id(identity.caller), "*")
            for subject in (own, "mcpctl.v1.router.*.*", "mcpctl.v1.mcp.*.*", "_INBOX.>", "mcpctl.v1.router.all.*"):
                await rogue.bus.receive(subject, rogue.take)
            await rogue.bus.ready()
            yield rogue
        finally:
            await rogue.bus.close()

    async def take(self, msg):
        self.heard.append(msg)
        if msg.reply and decode_request(msg.data)[0].method == "tools/call":
            self.called.set()

    async def is_called(self, http, lab):
        """Return the message of a call that is sent to him, as the gateways think that he is a router there."""
        present = present_subject("lab", self.bus.caller)
        async with asyncio.timeout(20):
            while not self.called.is_set():
                await self.bus.send(present, ServerStates(router="r000000000000").model_dump_json().encode())
                await call(http, lab, "bench__echo", text="x")
        return next(m for m in self.heard if m.reply and decode_request(m.data)[0].method == "tools/call")


async def test_a_router_of_a_site_in_foreign_hands_answers_and_hears_what_is_for_it_alone(lab, http):
    secret = lab.system.bearer.encode()
    async with Rogue.among(lab) as rogue:
        taken = await rogue.is_called(http, lab)
        inbox, _, number = taken.reply.rpartition(".")
        forged = encode(Reply("end", 1), b'{"content":[],"resultType":"complete"}')
        running = asyncio.create_task(call(http, lab, "dual__wait_forever", key="rogue"))
        while "true" not in str(await call(http, lab, "dual__has_started", key="rogue")).lower():
            await asyncio.sleep(0.05)
        for near in range(int(number), int(number) + 200):  # the calls of this gateway since then are among these
            await rogue.bus.send(f"{inbox}.{near}", forged)
        await lab.states()  # an operator asks all routers, with his bearer in the question
        narrow = await lab.system.token("spread", "elsewhere", "role:run,resource:servers,name:dual")
        assert (await call(http, lab, "dual__echo", bearer=narrow, text="x"))[0] == 200
        await rogue.bus.ready()

        assert not running.done()
        running.cancel()
        heard = b"".join(msg.data for msg in rogue.heard)
        assert lab.system.tokens["spread"].encode() in heard
        assert secret not in heard
        assert narrow.encode() not in heard
        await rogue.bus.send(present_subject("lab", rogue.bus.caller), b"")


@asynccontextmanager
async def waiting_call(http, lab, key):
    """A call that is being carried out at the site."""
    task = asyncio.create_task(call(http, lab, "bench__wait_forever", key=key))
    try:
        async with asyncio.timeout(20):
            while "true" not in str(await call(http, lab, "bench__has_started", key=key)).lower():
                await asyncio.sleep(0.05)
        await asyncio.sleep(4 * ACCEPT_AFTER)  # so that the gateway knows that it is
        yield task
    finally:
        task.cancel()


async def refused(http, lab):
    """Return the reason of a 503 of a call at the site, which comes within a second or two; the others go on."""
    began = time.monotonic()
    status, body = await call(http, lab, "bench__echo", text="x")
    assert time.monotonic() - began < 4
    assert status == 503
    assert (await call(http, lab, "dual__echo", text="x"))[0] == 200
    return body["error"]["message"]


async def back(http, lab):
    """Return once calls at the site work again."""
    async with asyncio.timeout(20):
        while (await call(http, lab, "bench__echo", text="x"))[0] != 200:
            await asyncio.sleep(0.1)


async def test_a_site_that_is_cut_off_is_missed_within_seconds_and_comes_back_by_itself(lab, http, record_property):
    async with waiting_call(http, lab, "cut") as running:
        began = time.monotonic()
        lab.ingress.open.clear()
        said = await refused(http, lab)
        assert "site lab is not reached: its router r" in said
        status, body = await running
        record_property("in flight", time.monotonic() - began)
        assert time.monotonic() - began < MISSED
        assert status == 503
        assert "may have been carried out (site lab" in body["error"]["message"]
    await lab.seen(present=False)
    assert "last heard of" in await refused(http, lab)
    names, unavailable = await listed(http, lab)
    assert "dual__echo" in names
    assert "site lab is not reached" in unavailable["bench"]

    began = time.monotonic()
    lab.ingress.open.set()
    await lab.seen(present=True)
    await back(http, lab)
    record_property("back", time.monotonic() - began)
    assert "bench__echo" in (await listed(http, lab))[0]


async def test_a_frozen_or_killed_router_of_a_site_is_missed_and_another_start_goes_on(lab, http):
    lab.router.process.send_signal(signal.SIGSTOP)
    assert "site lab is not reached: its router r" in await refused(http, lab)
    lab.router.process.send_signal(signal.SIGCONT)
    await back(http, lab)

    await lab.router.kill()
    assert "site lab is not reached: its router r" in await refused(http, lab)
    await lab.start()
    await back(http, lab)


async def test_a_revoked_credential_ends_connection_and_router_and_its_servers_are_moved_home(
    lab, http, record_property
):
    system = lab.system
    revoke = token.RevokeServiceAccountToken(bearer=system.bearer, name="lab-router", id=lab.issued.id)
    there = await Bus.connect(system.nats.url, AdmittedIdentity("router", lab.issued.bearer, site="lab"))
    began = time.monotonic()
    await system.operator.call(token.revoke_service_account_token, revoke)
    async with asyncio.timeout(5):
        while there.client.is_connected:
            await asyncio.sleep(0.01)
        took = time.monotonic() - began
        await there.close()
        while (await call(http, lab, "bench__echo", text="x"))[0] == 200:
            await asyncio.sleep(0.02)
    record_property("revoked", took)

    assert took < 1
    assert "site lab is not reached" in await refused(http, lab)

    found = await system.operator.call(catalog.get_server, catalog.GetServer(bearer=system.bearer, name="bench"))
    home = catalog.EditServer(bearer=system.bearer, spec=found.spec.model_copy(update={"placement": None}))
    await system.operator.call(catalog.edit_server, home)
    assert (await call(http, lab, "bench__echo", text="at home"))[0] == 200
    async with asyncio.timeout(20):
        assert await lab.router.process.wait() == 1
