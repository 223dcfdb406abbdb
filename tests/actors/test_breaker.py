"""Upstream servers in trouble, each with a healthy neighbour at the same router: what callers and the operator get."""

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.contracts import audit, catalog, router
from mcpctl.bus.mcp_client import MODERN
from mcpctl.bus.mcp_messages import MODERN_MEMBERS
from tests.system import System
from tests.upstreams.raw_http import serving, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAILURES, PLACES = 3, 6
TIMEOUT, STARTING, FIRST, LAST = 2.0, 12.0, 0.4, 1.0
"""Seconds: for a call, for a start, and between two probes."""

PROMPT = 1.5
"""Seconds within which an answer has certainly not waited for a server in trouble."""


def message(request, **members):
    return json.dumps({"jsonrpc": "2.0", "id": request.message["id"], **members}).encode()


class Moody:
    """A stateless server that is `well`, or in one kind of trouble with all that it is asked."""

    def __init__(self):
        self.mood, self.turned = "well", asyncio.Event()
        self.calls, self.probes, self.together = [], [], 0
        self._probing = 0
        self.gathering = asyncio.Barrier(1)

    def turn(self, mood):
        self.mood = mood
        self.turned.set()
        self.turned = asyncio.Event()

    async def __call__(self, peer):
        while (request := await peer.request()) is not None:
            if request.method == "tools/call":
                self.calls.append(request.message["params"]["arguments"]["n"])
                await self.gathering.wait()
                await self._answer(peer, request)
            else:
                self.probes.append(time.monotonic())
                self._probing += 1
                self.together = max(self.together, self._probing)
                try:
                    await self._answer(peer, request)
                finally:
                    self._probing -= 1
            if self.mood == "lost":
                return

    async def _answer(self, peer, request):
        if self.mood == "hangs":
            gone = asyncio.create_task(peer.until_hung_up())
            turned = asyncio.create_task(self.turned.wait())
            await asyncio.wait({gone, turned}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ConnectionError
            gone.cancel()
        if self.mood == "drips":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
            while self.mood == "drips":
                await peer.send(b"{")
                await asyncio.sleep(0.1)
            raise ConnectionError
        if self.mood == "fails":
            await peer.send(whole(b"", status="500 Internal Server Error"))
        elif self.mood == "babbles":
            await peer.send(whole(b'{"jsonrpc":"2.0","id":987654,"result":{}}'))
        elif self.mood == "lost":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            peer.writer.write_eof()
        elif self.mood == "refuses":
            await peer.send(whole(b"", status="401 Unauthorized"))
        elif request.method == "server/discover":
            result = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
            await peer.send(whole(message(request, result=result)))
        else:
            said = {"content": [{"type": "text", "text": "well"}], "resultType": "complete"}
            await peer.send(whole(message(request, result=said)))


# Speaks a handshake revision over stdio; notes each start, after which it is silent for some seconds; ends on demand.
STDIO = """
import json, os, sys, time

with open(sys.argv[1], "a") as starts:
    print(time.monotonic(), file=starts)
time.sleep(float(sys.argv[2]))
if os.path.exists(sys.argv[1] + ".broken"):
    sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    said = {"error": {"code": -32601, "message": "no"}}
    if message.get("method") == "initialize":
        info = {"name": "x", "version": "1"}
        said = {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}}
    elif message.get("method") == "tools/call" and message["params"]["name"] == "end":
        sys.exit(4)
    elif message.get("method") == "tools/call":
        said = {"result": {"content": [{"type": "text", "text": "well"}]}}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"]} | said), flush=True)
"""


class Running(System):
    """A system whose router has the servers of this module, each in a project of its name."""

    async def begin(self, servers):
        await self.start()
        await self.parts["router"].stop()
        times = {"UPSTREAM_TIMEOUT": TIMEOUT, "UPSTREAM_START": STARTING, "BREAKER_FIRST": FIRST, "BREAKER_LAST": LAST}
        limits = {f"MCPCTL_{name}_MS": str(int(seconds * 1000)) for name, seconds in times.items()}
        limits |= {"MCPCTL_BREAKER_FAILURES": str(FAILURES), "MCPCTL_UPSTREAM_REQUESTS": str(PLACES)}
        await self.run("router", "mcpctl.actors", "router", **limits)
        self.url = await self.gateway()
        self.tokens = {}
        for name, spec in servers.items():
            await self.server(name, **spec)
            await self.project(name, name)
            self.tokens[name] = await self.token(name, "agent", "role:run,resource:servers")
        self.http, self.numbers = aiohttp.ClientSession(), iter(range(1_000_000))

    async def call(self, server, tool="well"):
        """Return the HTTP status of a call, the text of its result or error, and the seconds that it took."""
        number = next(self.numbers)
        params = {"name": tool, "arguments": {"n": number}, "_meta": json.loads(b"{" + MODERN_MEMBERS + b"}")}
        headers = {
            "Authorization": f"Bearer {self.tokens[server]}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        began = time.monotonic()
        async with self.http.post(f"{self.url}/projects/{server}/mcp", json=body, headers=headers) as response:
            answer, took = await response.json(), time.monotonic() - began
        if response.status == 503:
            assert int(response.headers["Retry-After"]) > 0
        error = answer.get("error")
        return response.status, error["message"] if error else answer["result"]["content"][0]["text"], took

    async def calls(self, server, count, tool="well"):
        """Call a server several times at once, and its neighbour meanwhile, which does not feel it."""
        calling = asyncio.gather(*(self.call(server, tool) for _ in range(count)))
        for _ in range(5):
            status, said, took = await self.call("steady")
            assert (status, said) == (200, "well")
            assert took < PROMPT
        return await calling

    async def state(self, server):
        asked = router.GetServerStates(bearer=self.bearer, name=server)
        (answer,) = await self.operator.ask_everyone(router.server_states, asked, patience=5)
        return answer.servers[0]

    async def until(self, server, breaker):
        async with asyncio.timeout(30):
            while (state := await self.state(server)).breaker != breaker:
                await asyncio.sleep(0.05)
        return state

    async def turns(self, server):
        """Return what the ledger says of a server's breaker, once it says that it is closed."""
        wanted = audit.Query(bearer=self.bearer, limit=1000, filter=audit.Filter(kind="server"))
        async with asyncio.timeout(30):
            while True:
                found = [entry.event for entry in (await self.operator.call(audit.query, wanted)).items]
                told = [(event.outcome, event.rule) for event in found if event.server == server]
                if told and told[-1][0] == "allow":
                    return told
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running_system(folder):
    system, moody, steady = Running(folder), Moody(), Moody()
    files = {name: folder / name for name in ("slow", "crashing")}

    def stdio(name, seconds):
        return {"command": (sys.executable, "-c", STDIO, str(files[name]), str(seconds))}

    try:
        async with serving(moody) as first, serving(steady) as second:
            await system.begin(
                {
                    "moody": {"url": first.url},
                    "steady": {"url": second.url},
                    "slow": stdio("slow", TIMEOUT + 2),
                    "crashing": stdio("crashing", 0),
                }
            )
            system.moody, system.raw, system.files = moody, first, files
            yield system
    finally:
        if hasattr(system, "http"):
            await system.http.close()
        await system.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    async with running_system(tmp_path_factory.mktemp("breaker")) as running:
        yield running


TROUBLES = {
    "fails": ("away", 502, "server moody: HTTP 500"),
    "babbles": ("away", 502, "server moody: an answer to another request"),
    "lost": ("away", 502, "server moody: connection lost before the answer was complete"),
    "drips": ("slow", 504, "server moody: no answer in time"),
    "hangs": ("slow", 504, "server moody: no answer in time"),
}


@pytest.mark.parametrize("mood", TROUBLES)
async def test_a_server_in_trouble_is_left_alone_until_one_probe_finds_it_well(system, mood):
    await system.wake()
    moody, (cause, status, reason) = system.moody, TROUBLES[mood]
    moody.turn("well")
    assert (await system.call("moody"))[:2] == (200, "well")
    told = await system.turns("moody") if mood != next(iter(TROUBLES)) else []

    moody.turn(mood)
    known, moody.probes, moody.together = len(moody.calls), [], 0
    over = 2 if mood == "hangs" else 0
    if cause == "away":  # what takes several calls with it is one failure, and whatever follows is another
        moody.gathering = asyncio.Barrier(FAILURES)
        answers = await system.calls("moody", FAILURES)
        assert (await system.state("moody")).failures == 1
        moody.gathering = asyncio.Barrier(1)
        for _ in range(FAILURES - 1):
            answers += await system.calls("moody", 1)
    else:
        answers = sorted(await system.calls("moody", PLACES + over))
    failed = [answer[:2] for answer in answers if answer[0] != 503]
    assert failed == [(status, reason)] * len(failed)
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(refused) == over  # beyond the places of one server
    for _, said, took in refused:
        assert said == f"server moody is at its limit of {PLACES} requests at once at this router"
        assert took < PROMPT

    for status, said, took in await system.calls("moody", 20):
        assert status == 503
        assert said.startswith(reason)
        assert "; not asked for " in said
        assert took < PROMPT
    assert len(moody.calls) == known + len(answers) - over
    state = await system.state("moody")
    assert (state.state, state.cause, state.reason) == ("away", cause, reason)
    assert state.breaker in ("open", "half-open")
    assert state.since < time.time() * 1000
    assert state.refused >= 20
    headers = {"Authorization": f"Bearer {system.bearer}"}
    async with system.http.get(f"{system.url}/api/v1/server-states", params={"name": "moody"}, headers=headers) as http:
        assert http.status == 200
        (over_http,) = (await http.json())["items"]
    assert over_http["servers"][0]["cause"] == cause
    async with asyncio.timeout(30):
        while len(moody.probes) < (1 if mood in ("hangs", "drips") else 3):
            await asyncio.sleep(0.02)
    assert moody.together == 1
    assert all(later - earlier > FIRST * 0.75 for earlier, later in pairwise(moody.probes))

    moody.turn("well")
    await system.until("moody", "closed")
    assert (await system.call("moody"))[:2] == (200, "well")
    assert len(set(moody.calls)) == len(moody.calls)
    assert len(moody.calls) == known + len(answers) - over + 1
    assert (await system.turns("moody"))[len(told) :] == [
        ("error", f"breaker open: {cause}"),
        ("allow", "breaker closed"),
    ]
    assert (await system.state("moody")).running == 0


async def test_refused_credentials_are_the_operators_business_and_asked_again_once_they_are_changed(system):
    await system.wake()
    moody = system.moody
    moody.turn("well")
    assert (await system.call("moody"))[:2] == (200, "well")
    told = await system.turns("moody")
    moody.turn("refuses")
    for _ in range(FAILURES):
        assert (await system.call("moody"))[:2] == (502, "server moody: HTTP 401")
    status, said, _ = await system.call("moody")
    assert (status, said.partition(";")[0]) == (
        503,
        "server moody: HTTP 401, which is about the credentials that it is sent",
    )
    assert (await system.state("moody")).cause == "credentials"
    moody.probes = []
    await asyncio.sleep(3 * LAST)  # in which a server in other trouble is probed twice at least
    assert moody.probes == []

    moody.turn("well")
    spec = catalog.ServerSpec(name="moody", url=system.raw.url, headers={"X-Key": "another"})
    await system.operator.call(catalog.edit_server, catalog.EditServer(bearer=system.bearer, spec=spec))
    async with asyncio.timeout(10):
        while (await system.call("moody"))[0] != 200:
            await asyncio.sleep(0.05)
    assert (await system.turns("moody"))[len(told) :] == [
        ("error", "breaker open: credentials"),
        ("allow", "breaker closed"),
    ]


async def test_a_slow_start_is_waited_for_by_all_and_begun_once(system):
    await system.wake()
    answers = await system.calls("slow", 3)
    assert [status for status, *_ in answers] == [504] * 3
    assert {said.partition(":")[0] for _, said, _ in answers} == {"server slow is still starting"}
    assert (await system.state("slow")).breaker == "closed"
    assert [answer[:2] for answer in await system.calls("slow", 3)] == [(200, "well")] * 3
    assert len(system.files["slow"].read_text().split()) == 1


async def test_a_process_that_keeps_ending_is_started_less_and_less_often(system):
    await system.wake()
    starts = system.files["crashing"]
    for _ in range(FAILURES):  # each starts it again, and it is well until it ends
        assert (await system.call("crashing"))[:2] == (200, "well")
        assert (await system.call("crashing", "end"))[:2] == (
            502,
            "server crashing: the process ended (exit status 4)",
        )
    assert (await system.call("crashing", "end"))[0] == 503
    await system.until("crashing", "closed")

    starts.with_name("crashing.broken").touch()
    assert (await system.call("crashing", "end"))[0] == 502
    for _ in range(FAILURES - 1):
        assert (await system.call("crashing"))[:2] == (502, "server crashing: the process ended (exit status 3)")
    status, said, took = await system.call("crashing")
    assert status == 503
    assert said.startswith("server crashing: the process ended (exit status 3); not asked for ")
    assert took < PROMPT
    known = len(starts.read_text().split())
    async with asyncio.timeout(30):
        while len(starts.read_text().split()) < known + 3:
            await system.calls("crashing", 3)
    times = [float(line) for line in starts.read_text().split()][known:]
    assert min(later - earlier for earlier, later in pairwise(times)) > LAST / 2
    starts.with_name("crashing.broken").unlink()
    await system.until("crashing", "closed")
    assert (await system.call("crashing"))[:2] == (200, "well")
    assert [outcome for outcome, _ in await system.turns("crashing")] == ["error", "allow"] * 2
