"""Following a change feed, and a cache that hangs on it, over the real bus."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from mcpctl.bus import feed
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Publisher
from mcpctl.bus.contract import Change, Changed, Changes, PullChanges
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import NotFound, Unavailable
from mcpctl.bus.feed import Follower


class Owner:
    """The owner's side of the Catalog's feed, with everything that a test may do to it."""

    def __init__(self, bus, publisher):
        self.bus, self.publisher = bus, publisher
        self.epoch, self.changes = "one", []
        self.pulls = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked = asyncio.Event()

    @property
    def seq(self):
        return len(self.changes)

    async def answer(self, asked: PullChanges, _caller: str) -> Changes:
        self.pulls += 1
        known = asked.epoch == self.epoch and asked.seq <= self.seq
        changes = tuple(self.changes[asked.seq :]) if known else ()
        answer = Changes(epoch=self.epoch, seq=self.seq, changes=changes, reset=not known)
        self.asked.set()
        await self.answering.wait()
        return answer

    def change(self, key="web"):
        self.changes.append(Change(seq=self.seq + 1, kind="project", key=key, action="changed"))
        return self.changes[-1]

    async def broadcast(self, change):
        await self.publisher.publish(catalog.feed.changed, Changed(epoch=self.epoch, change=change))


class Heard:
    """What a follower told its listeners, and a way to wait for more."""

    def __init__(self, follower):
        self.changes, self.resets, self.lapses = [], 0, 0
        follower.on_change.append(lambda change: self._note(lambda: self.changes.append(change.seq)))
        follower.on_reset.append(lambda: self._note(lambda: setattr(self, "resets", self.resets + 1)))
        follower.on_lapse.append(lambda: self._note(lambda: setattr(self, "lapses", self.lapses + 1)))
        self._moved = asyncio.Event()

    def _note(self, what):
        what()
        self._moved.set()

    async def until(self, true):
        async with asyncio.timeout(5):
            while not true(self):
                self._moved.clear()
                await self._moved.wait()


@pytest.fixture
async def owner(connect, nats):
    bus = await connect("catalog")
    publisher = await Publisher.connect(nats.url, bus.identity, bus.closed.set)
    owner = Owner(bus, publisher)
    await bus.serve(catalog.feed.pull, owner.answer)
    await bus.ready()
    yield owner
    owner.answering.set()
    await publisher.close()


@pytest.fixture
def following(connect):
    @asynccontextmanager
    async def follow():
        bus = await connect("router")
        follower = Follower(bus, catalog.feed)
        heard = Heard(follower)
        await follower.start()
        await bus.ready()
        running = asyncio.create_task(follower.run())
        try:
            async with asyncio.timeout(5):
                await follower.first_lease()
            yield follower, heard
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return follow


@pytest.fixture
def pulls_seldom(monkeypatch):
    monkeypatch.setattr(feed, "PULL_EVERY", 60.0)
    monkeypatch.setattr(feed, "LEASE", 60.0)


@pytest.fixture
def pulls_often(monkeypatch):
    monkeypatch.setattr(feed, "PULL_EVERY", 0.05)


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(feed, "PULL_EVERY", 0.05)
    monkeypatch.setattr(feed, "LEASE", 0.3)


async def test_a_broadcast_is_applied_without_a_pull(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        await owner.broadcast(owner.change())

        await heard.until(lambda h: h.changes == [1])

    assert follower.seq == 1
    assert owner.pulls == 1


async def test_a_lost_broadcast_is_pulled(owner, following, pulls_often):
    async with following() as (_, heard):
        owner.change()

        await heard.until(lambda h: h.changes == [1])

    assert heard.resets == 1, "the very first answer only"


async def test_a_gap_in_the_numbers_pulls_at_once(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        owner.change()
        await owner.broadcast(owner.change())

        await heard.until(lambda h: h.changes == [2, 1, 2])

        assert follower.trusted
    assert owner.pulls >= 2, "and once more, to say that it has acted"


async def test_a_change_before_its_turn_ends_what_it_concerns_though_the_owner_does_not_answer(
    owner, following, pulls_seldom
):
    async with following() as (follower, heard):
        cache = LeasedCache(follower, Answers(follower).load)
        follower.on_change.append(lambda change: len(cache.drop(lambda key, _: key == change.key)))
        for key in ("web", "shop"):
            await cache.get(key, "bearer")
        owner.answering.clear()
        owner.change("shop")
        await owner.broadcast(owner.change("web"))
        await heard.until(lambda h: h.changes == [2])

        assert cache.peek("web") is None
        assert cache.peek("shop") is not None, "nobody has told of it yet"
        assert follower.seq == 0, "the first is still to come"
        owner.answering.set()
        await heard.until(lambda h: h.changes == [2, 1, 2])
        assert cache.peek("shop") is None


async def test_a_broadcast_heard_twice_is_applied_once(owner, following, pulls_seldom):
    async with following() as (_, heard):
        first = owner.change()
        await owner.broadcast(first)
        await owner.broadcast(first)
        await owner.broadcast(owner.change())

        await heard.until(lambda h: len(h.changes) == 2)

    assert heard.changes == [1, 2]


async def test_a_change_of_another_epoch_or_from_the_future_brings_nothing_back(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        await owner.broadcast(owner.change())
        await heard.until(lambda h: h.changes == [1])
        created = Change(seq=2, kind="project", key="web", action="created")
        owner.epoch, epoch = "another", owner.epoch
        await owner.broadcast(created)
        owner.epoch = epoch
        await owner.broadcast(created.model_copy(update={"seq": 999}))
        await heard.until(lambda h: h.changes == [1, 999])

        assert (follower.epoch, follower.seq) == (epoch, 1), "what the owner says itself is all that counts"


async def test_an_answer_that_a_broadcast_overtook_is_no_step_back(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        owner.answering.clear()
        owner.asked.clear()
        pulled = asyncio.create_task(follower.catch_up())
        await owner.asked.wait()
        await owner.broadcast(owner.change())
        await heard.until(lambda h: h.changes == [1])
        owner.answering.set()
        await pulled

        assert follower.seq == 1
    assert heard.resets == 1
    assert heard.changes == [1]


async def test_a_new_epoch_drops_what_was_known(owner, following, pulls_often):
    async with following() as (follower, heard):
        owner.epoch, owner.changes = "two", []

        await heard.until(lambda h: h.resets == 2)

        assert (follower.epoch, follower.seq) == ("two", 0)


async def test_a_number_below_the_one_already_seen_drops_what_was_known(owner, following, pulls_often):
    async with following() as (follower, heard):
        await owner.broadcast(owner.change())
        await heard.until(lambda h: h.changes == [1])
        owner.changes = []

        await heard.until(lambda h: h.resets == 2)

        assert follower.seq == 0


async def test_without_answers_the_lease_runs_out_and_nothing_may_begin(owner, following, short_lease):
    async with following() as (follower, heard):
        owner.answering.clear()

        await heard.until(lambda h: h.lapses == 1)

        assert not follower.trusted
        with pytest.raises(Unavailable, match="catalog"):
            follower.demand_lease()


async def test_the_lease_ends_on_time_though_a_pull_still_waits(owner, following, short_lease):
    async with following() as (_, heard):
        owner.asked.clear()
        owner.answering.clear()
        await owner.asked.wait()
        began = feed.now()

        await heard.until(lambda h: h.lapses == 1)

        assert feed.now() - began < 0.6, "the pull alone would wait a second"


async def test_a_lease_comes_back_with_the_owner(owner, following, short_lease):
    async with following() as (follower, heard):
        owner.answering.clear()
        await heard.until(lambda h: h.lapses == 1)

        owner.answering.set()
        async with asyncio.timeout(5):
            await follower.catch_up()

        assert follower.trusted
        assert heard.resets == 1, "nothing was missed, so nothing is dropped"


class Answers:
    """What the cache's owner says, and how often it was asked."""

    def __init__(self, follower):
        self.follower, self.asked = follower, 0
        self.behind = 0
        self.refusal = None

    async def load(self, key, _bearer):
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        return Loaded(self.follower.epoch, self.follower.seq - self.behind, f"{key}#{self.asked}", ttl=60.0)


async def test_an_answer_is_kept_until_a_change_concerns_it(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        answers = Answers(follower)
        cache = LeasedCache(follower, answers.load)
        follower.on_change.append(lambda change: len(cache.drop(lambda key, _: key == change.key)))
        assert await cache.get("web", "bearer") == await cache.get("web", "bearer") == "web#1"

        await owner.broadcast(owner.change("web"))
        await heard.until(lambda h: h.changes == [1])

        assert cache.peek("web") is None
        assert await cache.get("web", "bearer") == "web#2"


async def test_nothing_is_answered_without_a_lease_though_it_is_kept(owner, following, short_lease):
    async with following() as (follower, heard):
        cache = LeasedCache(follower, Answers(follower).load)
        await cache.get("web", "bearer")
        owner.answering.clear()
        await heard.until(lambda h: h.lapses == 1)

        assert cache.peek("web") is None
        with pytest.raises(Unavailable):
            await cache.get("web", "bearer")


async def test_an_answer_that_changes_overtook_is_neither_kept_nor_returned(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        answers = Answers(follower)
        cache = LeasedCache(follower, answers.load)
        await owner.broadcast(owner.change())
        await heard.until(lambda h: h.changes == [1])
        answers.behind = 1

        with pytest.raises(Unavailable, match="overtaken"):
            await cache.get("web", "bearer")

        assert cache.peek("web") is None
        answers.behind = 0
        assert await cache.get("web", "bearer") == f"web#{answers.asked}"


async def test_changes_of_others_do_not_spoil_an_answer(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        answers = Answers(follower)
        cache = LeasedCache(follower, answers.load, concerns=lambda key, _, change: key == change.key)
        for key in ("web", "shop"):
            await owner.broadcast(owner.change(key))
        await heard.until(lambda h: h.changes == [1, 2])
        answers.behind = 1

        assert await cache.get("web", "bearer") == "web#1"
        assert cache.peek("web") == "web#1"
        with pytest.raises(Unavailable, match="overtaken"):
            await cache.get("shop", "bearer")


async def test_an_answer_from_before_all_that_is_remembered_is_not_believed(owner, following, pulls_seldom):
    async with following() as (follower, heard):
        await owner.broadcast(owner.change("shop"))
        await heard.until(lambda h: h.changes == [1])
        answers = Answers(follower)
        cache = LeasedCache(follower, answers.load, concerns=lambda key, _, change: key == change.key)
        answers.behind = 1

        with pytest.raises(Unavailable, match="overtaken"):
            await cache.get("web", "bearer")


async def test_an_answer_of_a_newer_epoch_waits_for_the_feed(owner, following, pulls_seldom):
    async with following() as (follower, _):

        async def load(key, bearer):
            return Loaded(owner.epoch, owner.seq, key, ttl=60.0)

        cache = LeasedCache(follower, load)
        owner.epoch, owner.changes = "two", []

        async with asyncio.timeout(5):
            assert await cache.get("web", "bearer") == "web"

        assert follower.epoch == "two"
        assert cache.peek("web") == "web"


async def test_a_refusal_is_kept_until_it_is_forgiven(owner, following, pulls_seldom):
    async with following() as (follower, _):
        answers = Answers(follower)
        answers.refusal = NotFound("no such thing")
        cache = LeasedCache(follower, answers.load, refusals=(NotFound,), refusal_ttl=60.0)
        for _ in range(2):
            with pytest.raises(NotFound):
                await cache.get("web", "bearer")
        assert answers.asked == 1

        cache.drop_refusals()
        answers.refusal = None

        assert await cache.get("web", "bearer") == "web#2"


async def test_a_refusal_on_its_way_is_not_kept_once_forgiven(owner, following, pulls_seldom):
    async with following() as (follower, _):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def load(key, bearer):
            asked.set()
            await go_on.wait()
            raise NotFound("not yet")

        cache = LeasedCache(follower, load, refusals=(NotFound,), refusal_ttl=60.0)
        asking = asyncio.create_task(cache.get("web", "bearer"))
        await asked.wait()
        cache.drop_refusals()
        go_on.set()
        with pytest.raises(NotFound):
            await asking
        asked.clear()

        with pytest.raises(NotFound):
            await cache.get("web", "bearer")

        assert asked.is_set(), "the owner was asked again"


async def test_many_who_ask_at_once_cost_one_question(owner, following, pulls_seldom):
    async with following() as (follower, _):
        answers = Answers(follower)
        cache = LeasedCache(follower, answers.load)

        got = await asyncio.gather(*(cache.get("web", "bearer") for _ in range(50)))

        assert set(got) == {"web#1"}
        assert answers.asked == 1
