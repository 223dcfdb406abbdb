"""The turns of requests to the routers, by a clock of the test's own."""

import asyncio

import pytest

from mcpctl.bus.errors import Unavailable
from mcpctl.bus.places import Places
from mcpctl.gateway.shedding import project_of
from mcpctl.gateway.turns import CUT_EVERY, FEWEST, FIRST, TOO_LONG, Turns


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Queue:
    """Requests of projects in one gateway's turns, and the order in which they were let go."""

    def __init__(self, waiting=100):
        self.clock = Clock()
        self.turns = Turns(waiting, self.clock)
        self.let_go, self.tasks = [], []

    async def full(self):
        for _ in range(FIRST):
            await self.turns.take("other")

    async def ask(self, *projects):
        for project in projects:
            self.tasks.append(asyncio.create_task(self._wait(project)))
        await self.settle()

    async def _wait(self, project):
        await self.turns.take(project)
        self.let_go.append(project)

    async def leave(self, times=1, *, late=False):
        for _ in range(times):
            self.turns.leave(late=late)
        await self.settle()

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture
async def queue():
    waiting = Queue()
    yield waiting
    await waiting.close()


async def test_nobody_waits_while_the_routers_keep_up(queue):
    await queue.full()
    await queue.leave()
    await queue.ask("shop")

    assert queue.let_go == ["shop"]


async def test_projects_take_turns_however_many_requests_one_has(queue):
    await queue.full()
    await queue.ask(*["noisy"] * 20, "quiet", "quiet", "third")

    # With each answer the routers may be sent one more: so one that leaves lets two go.
    while len(queue.let_go) < 8:
        await queue.leave()
    assert queue.let_go[:6] == ["noisy", "quiet", "third", "noisy", "quiet", "noisy"]


async def test_one_project_alone_gets_half_of_the_places_and_another_is_let_in_still():
    queue = Queue(waiting=10)
    await queue.full()
    await queue.ask(*["noisy"] * 9)
    assert queue.turns.waiting == 5
    with pytest.raises(Unavailable, match="the routers do not keep up"):
        await queue.turns.take("noisy")

    await queue.ask("quiet")
    assert queue.turns.waiting == 6
    await queue.close()


async def test_a_project_whose_first_has_waited_too_long_is_told_at_once_and_another_is_not(queue):
    await queue.full()
    await queue.ask("noisy")
    queue.clock.now += TOO_LONG / 2
    assert queue.turns.has_room("noisy")
    queue.clock.now += TOO_LONG
    assert not queue.turns.has_room("noisy")
    assert queue.turns.has_room("quiet")


async def test_one_who_hangs_up_while_waiting_takes_nobodys_turn(queue):
    await queue.full()
    await queue.ask("shop", "shop")
    queue.tasks[0].cancel()
    await queue.settle()
    assert queue.turns.waiting == 1

    await queue.leave()
    assert queue.let_go == ["shop"]
    assert queue.turns.waiting == 0


async def test_late_routers_are_sent_fewer_and_more_again_when_they_keep_up(queue):
    await queue.full()
    for _ in range(20):
        queue.clock.now += 2 * CUT_EVERY
        await queue.leave(late=True)
    await queue.leave(FIRST - 20)
    for _ in range(FEWEST):
        await queue.turns.take("shop")
    queue.clock.now += 10
    await queue.ask(*["shop"] * 31)
    assert queue.let_go == [], f"{FEWEST} are on their way, and that is all"

    await queue.leave(10)
    assert len(queue.let_go) == 20


def test_places_leave_room_for_who_comes_new():
    places = Places(9)
    for name in ("a", "b"):
        while places.has_room(name):
            places.take(name)
    assert places.taken == 7
    assert places.has_room("c")

    places.leave("a")
    places.leave("b")
    places.take("c")
    places.take("c")
    assert not places.has_room("c")


BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'


def request(path="/projects/shop/mcp", body=BODY, length=None, more=""):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n"
    return head.encode() + body


@pytest.mark.parametrize("path", ["/projects/shop/mcp", "/projects/shop/servers/one/mcp"])
def test_a_whole_request_is_known_by_its_project(path):
    assert project_of(request(path)) == "shop"


@pytest.mark.parametrize(
    "data",
    [
        request(length=len(BODY) + 1),
        request() + b"P",
        request()[:-1],
        request(more="Content-Length: 46\r\n"),
        request(more="Transfer-Encoding: chunked\r\n"),
        request(body=b""),
        request(body=b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'),
        request(body=b'{"jsonrpc":"2.0","id":1,"result":{}}'),
        request("/api/v1/projects"),
        b"GET /projects/shop/mcp HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /projects/shop/mcp HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_single_whole_request_takes_the_usual_way(data):
    assert project_of(data) is None
