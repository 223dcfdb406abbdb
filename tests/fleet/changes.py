"""Changes of the control plane beside the traffic: tokens that are issued, used, and revoked, over HTTP.

What was acknowledged must still be there at the end; and a token whose revocation was acknowledged must not get through
any gateway once the leases of that moment are over.
"""

import asyncio
import itertools
import json
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from tests.gateway.test_edge import headers, modern

LEASE = 3.0
"""Seconds after which a replica that has not heard of a revocation admits nobody."""

PAUSE = 0.1


@dataclass
class Changes:
    """Writers with an admin's `bearer`; `project` is their own, with the tool `tool`."""

    url: str
    project: str
    bearer: str
    tool: str
    issued: dict[str, str] = field(default_factory=dict)
    """names of tokens whose issue was acknowledged, and their bearers"""
    revoked: dict[str, float] = field(default_factory=dict)
    """... whose revocation was acknowledged, and when"""
    unclear: list[str] = field(default_factory=list)
    """changes that were not acknowledged: they may have been made"""
    got_through: list[str] = field(default_factory=list)
    """revoked tokens that were let in after their lease"""
    _run: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: itertools.count = field(default_factory=itertools.count)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, writers: int = 2) -> None:
        self._tasks += [asyncio.create_task(self._write()) for _ in range(writers)]
        self._tasks.append(asyncio.create_task(self._try_revoked()))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _write(self) -> None:
        async with self._http() as http:
            while not self._stop.is_set():
                name = f"fleet-{self._run}-{next(self._numbers)}"
                binding = {"role": "run", "resource": "servers"}
                said = await self._ask(http, "", {"name": name, "bindings": [binding], "ttl_seconds": 3600})
                if said is None:
                    self.unclear.append(f"issue {name}")
                    continue
                self.issued[name] = said["bearer"]
                await asyncio.sleep(PAUSE)
                if await self._ask(http, f"/{name}/revoke", {}) is None:
                    self.unclear.append(f"revoke {name}")
                else:
                    self.revoked[name] = time.monotonic()
                await asyncio.sleep(PAUSE)

    async def _ask(self, http: aiohttp.ClientSession, path: str, body: object) -> dict[str, object] | None:
        """Return the answer; None where the change was not acknowledged."""
        sent = {"Authorization": f"Bearer {self.bearer}"}
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with http.post(
                f"{self.url}/api/v1/projects/{self.project}/mcptokens{path}", json=body, headers=sent
            ) as answer:
                text = await answer.text()
                if answer.status in (200, 201):
                    return json.loads(text)
                assert answer.status in (409, 429, 502, 503, 504), f"{answer.status} {text}"
        await asyncio.sleep(PAUSE)
        return None

    async def _try_revoked(self) -> None:
        """Use tokens whose revocation must be in force everywhere."""
        async with self._http() as http:
            while not self._stop.is_set():
                await asyncio.sleep(PAUSE)
                now = time.monotonic()
                over = [name for name, at in self.revoked.items() if now - at > LEASE]
                for name in over[-3:]:
                    sent = headers(self.issued[name], "tools/call", Mcp_Name=self.tool)
                    body = modern("tools/call", name=self.tool, arguments={"mark": f"revoked-{name}"})
                    with suppress(aiohttp.ClientError, OSError, TimeoutError):
                        async with http.post(
                            f"{self.url}/projects/{self.project}/mcp", json=body, headers=sent
                        ) as answer:
                            if answer.status == 200:
                                self.got_through.append(name)

    def _http(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=15, sock_connect=5)
        return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1, force_close=True))

    async def missing(self) -> list[str]:
        """Return the acknowledged changes that are not there now."""
        sent = {"Authorization": f"Bearer {self.bearer}"}
        async with (
            self._http() as http,
            http.get(f"{self.url}/api/v1/projects/{self.project}/mcptokens", headers=sent) as answer,
        ):
            assert answer.status == 200, await answer.text()
            status = {token["name"]: token["status"] for token in (await answer.json())["items"]}
        lost = [f"issue of {name}" for name in self.issued if name not in status]
        return lost + [f"revocation of {name}" for name in self.revoked if status.get(name) != "revoked"]
