"""Leaving a server that is about to go (lame duck mode) while it still serves, without losing or doubling a message.

nats-py would wait until the connection is cut, and what is under way then is lost. So the client has a second
connection made, subscribes there to the same, and takes it over when both have been heard for a moment. Until then, the
messages of a queue group are taken from either, since each comes once; all others come by both, so those of the
second are held back, and afterwards the ones given out that the first has not brought.
"""
# ruff: noqa: SLF001 - nats-py has no other way to give a client another connection

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

from nats.aio.client import Client

BOTH_HEARD = 0.3
"""Seconds after which every server of the cluster sends to the second connection too."""

Arrived = tuple[Any, ...]
"""Subscription, subject, reply, data and headers, as nats-py's parser gives them."""


class Move:
    """A client on its way from one connection to the next, which another client has made for it."""

    def __init__(self, client: Any, following: Any) -> None:
        self._client, self._next = client, following
        self._first: Counter[Arrived] = Counter()
        self._held: list[Arrived] = []
        self._taking = False
        following._process_msg = self._take_second

    def note(self, *arrived: Any) -> None:
        """Note what the first connection has brought."""
        if not self._is_shared(arrived[0]):
            self._first[_copied(arrived)] += 1

    async def subscribe(self, subscription: Any) -> None:
        await self._next._send_subscribe(subscription)

    async def unsubscribe(self, sid: int, limit: int) -> None:
        await self._next._send_unsubscribe(sid, limit)

    def _is_shared(self, sid: int) -> bool:
        subscription = self._client._subs.get(sid)
        return subscription is not None and bool(subscription._queue)

    async def _take_second(self, *arrived: Any) -> None:
        if not self._is_shared(arrived[0]):
            self._held.append(_copied(arrived))
            return
        self._taking = True
        await self._client.take(*arrived)
        self._taking = False

    async def make(self) -> bool:
        """Go over to the next connection. Returns false where the first was lost meanwhile: nothing has changed then.

        Raises nats-py's errors.
        """
        client, following = self._client, self._next
        leaving = client._transport
        for subscription in list(client._subs.values()):
            await following._send_subscribe(subscription)
        await following.flush()
        await following.flush()
        await asyncio.sleep(BOTH_HEARD)
        for sid in list(client._subs):
            await Client._send_unsubscribe(client, sid)
        await client.flush(timeout=2)
        await client.flush(timeout=2)  # now the first connection has brought all that it will
        while self._taking:  # noqa: ASYNC110 - it is done in the same turn of the loop, or the next
            await asyncio.sleep(0)
        if client._transport is not leaving or not client.is_connected or not following.is_connected:
            return False
        await self._take_over()
        leaving.close()
        with suppress(Exception):
            async with asyncio.timeout(1):
                await leaving.wait_closed()
        abort(leaving)
        return True

    async def _take_over(self) -> None:
        """Give the client the other's connection; it is between two messages."""
        client, following = self._client, self._next
        for task in (following._reading_task, following._ping_interval_task, following._flusher_task):
            task.cancel()
        client._reading_task.cancel()
        following._status = Client.CLOSED
        for name in ("_transport", "_server_info", "_client_id", "_client_ip", "_max_payload", "_ps"):
            setattr(client, name, getattr(following, name))
        client._ps.nc = client
        client._pongs, client._pings_outstanding = [], 0
        here = following._current_server
        client._current_server = here
        client.set_server_pool([*(url.geturl() for url in client.servers if url != here.uri), here.uri.geturl()])
        for arrived in self._held:
            if self._first[arrived]:
                self._first[arrived] -= 1
            else:
                await client.take(*arrived)
        client._reading_task = asyncio.create_task(client._read_loop())


def _copied(arrived: Arrived) -> Arrived:
    """Return what the parser has given, as it stays: these may be parts of its own buffer."""
    sid, *rest = arrived
    return (sid, *(None if part is None else bytes(part) for part in rest))


def abort(transport: Any) -> None:
    """Close the socket below TLS too, whose farewell may still be waited for; a WebSocket's has none of its own."""
    bare = getattr(transport, "_bare_io_writer", None)
    if bare is not None:
        bare.transport.abort()
