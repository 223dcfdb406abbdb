"""The NATS services protocol (ADR-32): `nats micro ls` and `mcpctl status` see every replica.

Written here since the Python client's own answers one request at a time per endpoint and sends the text of
any bug to the caller.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from nats.aio.msg import Msg

import mcpctl
from mcpctl.bus import measured, metrics
from mcpctl.bus.connection import Bus
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import INBOX

API = "io.nats.micro.v1"

CHECK_SECONDS = 0.2
"""How long a check may hold the answer to STATS back."""


@dataclass
class Endpoint:
    """Counts of one call, since the start."""

    subject: str
    queue_group: str
    place: tuple[str, str] = ("", "")
    """the service, and the name of the endpoint"""
    num_requests: int = 0
    num_errors: int = 0
    processing_time: int = 0
    """nanoseconds, all requests together"""
    last_error: str = ""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    """milliseconds of the latest requests"""

    def count(self, seconds: float, error: str = "") -> None:
        self.num_requests += 1
        measured.REQUESTS.add((*self.place, error or "ok"))
        measured.REQUEST_SECONDS.observe(self.place, seconds)
        self.processing_time += int(seconds * 1e9)
        self.recent.append(seconds * 1000)
        if error:
            self.num_errors += 1
            self.last_error = error


class Service:
    """One replica, as it presents itself."""

    def __init__(self, name: str, description: str) -> None:
        self.name, self.description = name, description
        self.id = secrets.token_hex(8)
        self.endpoints: dict[str, Endpoint] = {}
        self.checks: dict[str, Callable[[], Awaitable[str]]] = {}
        """What this replica depends on and others cannot see, by name: each returns how it is, or raises `BusError`."""
        self.metadata: dict[str, str] = {}
        self._started = datetime.now(UTC)

    def endpoint(self, name: str, subject: str, queue_group: str) -> Endpoint:
        return self.endpoints.setdefault(name, Endpoint(subject, queue_group, (self.name, name)))

    async def serve(self, bus: Bus) -> None:
        """Answer PING, INFO and STATS, to all, by name and by id."""
        for verb, answer in (("PING", self._pong), ("INFO", self._info), ("STATS", self._stats)):

            async def respond(msg: Msg, answer: Callable[[], Awaitable[dict[str, object]]] = answer) -> None:
                if msg.reply.startswith(f"{INBOX}."):
                    await bus.client.publish(msg.reply, orjson.dumps(await answer()))

            for suffix in ("", f".{self.name}", f".{self.name}.{self.id}"):
                await bus.receive(f"$SRV.{verb}{suffix}", respond)

    async def _pong(self) -> dict[str, object]:
        return self._ping()

    def _ping(self) -> dict[str, object]:
        return {
            "type": f"{API}.ping_response",
            "name": self.name,
            "id": self.id,
            "version": mcpctl.__version__,
            "metadata": self.metadata,
        }

    async def _info(self) -> dict[str, object]:
        endpoints = [
            {"name": name, "subject": e.subject, "queue_group": e.queue_group, "metadata": {}}
            for name, e in self.endpoints.items()
        ]
        return self._ping() | {
            "type": f"{API}.info_response",
            "description": self.description,
            "endpoints": endpoints,
        }

    async def _stats(self) -> dict[str, object]:
        return self._ping() | {
            "type": f"{API}.stats_response",
            "started": self._started.isoformat().replace("+00:00", "Z"),
            "endpoints": [self._stats_of(name, e) for name, e in self.endpoints.items()],
            "data": metrics.short(),
            "checks": {name: await self._checked(check) for name, check in self.checks.items()},
        }

    @staticmethod
    async def _checked(check: Callable[[], Awaitable[str]]) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return f"ok ({await check()})"
        except TimeoutError:
            return f"error: no answer within {CHECK_SECONDS} s"
        except BusError as error:
            return f"error: {error}"

    @staticmethod
    def _stats_of(name: str, e: Endpoint) -> dict[str, object]:
        recent = sorted(e.recent)
        return {
            "name": name,
            "subject": e.subject,
            "queue_group": e.queue_group,
            "num_requests": e.num_requests,
            "num_errors": e.num_errors,
            "last_error": e.last_error,
            "processing_time": e.processing_time,
            "average_processing_time": e.processing_time // e.num_requests if e.num_requests else 0,
            "data": {"p50_ms": round(recent[len(recent) // 2], 3) if recent else None},
        }
