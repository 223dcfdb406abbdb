"""Who is connected to nats-server, and ending that: by the right of one user in the account SYS, the `kicker`."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Self

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from mcpctl.bus.connection import connect_nats
from mcpctl.bus.identity import ActorIdentity, inbox_of
from mcpctl.bus.permissions import KICKER

PAGE = 1024
"""Connections in one answer: what nats-server gives at the most."""

QUIET = 0.25
"""Seconds after which no further server is expected to answer."""


@dataclass(frozen=True)
class Connection:
    """One connection to the account RPC: the server that has it, its number there, and the name it came in under."""

    server: str
    number: int
    user: str


class ServerConnections:
    """All servers' connections."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def connect(cls, url: str, identity: ActorIdentity, on_closed: Callable[[], None]) -> Self:
        return cls(await connect_nats(url, on_closed=on_closed, **identity.options(KICKER)))

    async def pages(self) -> AsyncGenerator[list[Connection], None]:
        """Yield the connections of all servers that answer, as each answers; none while the bus is away."""
        offset, more = 0, True
        while more:
            more = False
            async with aclosing(self._ask({"acc": "RPC", "auth": True, "limit": PAGE, "offset": offset})) as answers:
                async for answer in answers:
                    server, listed = answer["server"]["id"], (answer.get("data") or {}).get("connections") or ()
                    yield [Connection(server, it["cid"], it.get("authorized_user") or "") for it in listed]
                    more = more or len(listed) == PAGE
            offset += PAGE

    async def end(self, connection: Connection) -> None:
        """End one connection; one that is gone already is ended."""
        subject = f"$SYS.REQ.SERVER.{connection.server}.KICK"
        with suppress(Error, TimeoutError):
            await self._client.request(subject, orjson.dumps({"cid": connection.number}), timeout=1)

    async def _ask(self, options: dict[str, object]) -> AsyncGenerator[dict[str, Any], None]:
        answers: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = f"{inbox_of(KICKER)}.{secrets.token_hex(16)}"
        patience = 1.0
        with suppress(Error, TimeoutError):
            subscription = await self._client.subscribe(inbox, cb=answers.put)
            try:
                await self._client.publish("$SYS.REQ.SERVER.PING.CONNZ", orjson.dumps(options), reply=inbox)
                while True:
                    async with asyncio.timeout(patience):
                        msg = await answers.get()
                    yield orjson.loads(msg.data)
                    patience = QUIET
            finally:
                await subscription.unsubscribe()

    async def close(self) -> None:
        with suppress(Error):
            await self._client.close()
