"""The gateway's way onto the bus: it waits where nobody answers, says why, and leaves where it is not wanted."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import orjson
import structlog
from aiohttp import web

import mcpctl
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus
from mcpctl.bus.errors import Unauthenticated, Unavailable
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.gateway.settings import GatewaySettings

log = structlog.get_logger()

AGAIN_SECONDS = 0.5
NOBODY_ADMITS = "it admits nobody: no token actor answers"
REFUSED = (
    "the bus does not accept this gateway's credential: it is unknown, expired or revoked "
    "(MCPCTL_NATS_TOKEN, MCPCTL_NATS_TOKEN_FILE)"
)
REFUSED_POD = "it refuses this pod's token: the log of the token actor says why"
RENEW_AGAIN_SECONDS = 5.0
NO_CREDENTIAL = "the bus admits no gateway without a credential: set MCPCTL_NATS_TOKEN_FILE"


class Door:
    """Connects as a gateway. `reason` says why it is not connected, as far as that is known."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        bearer, file = settings.bus_bearer(), settings.nats_token_file
        self._identity = AdmittedIdentity("gateway", bearer, ca=settings.nats_ca, file=file)
        self._presented = ""  # the digest of the bearer
        self._renew_after = 0.0
        self.reason = ""

    async def enter(self) -> Bus:
        """Connect, as soon as that is possible. Raises `Unauthenticated` where it never will be, and `Unfit`."""
        try:
            return await self._connect()
        except Unavailable as error:
            await self._understand(error)
        async with self._waiting_room():
            while True:
                await asyncio.sleep(AGAIN_SECONDS)
                try:
                    return await self._connect()
                except Unavailable as error:
                    await self._understand(error)

    async def watch(self, bus: Bus) -> None:
        """Look after a connection that is away. Returns when it is closed for good.

        Raises `Unauthenticated` where it will not come back, since the credential is no longer good.
        """
        while not bus.closed.is_set():
            await asyncio.sleep(AGAIN_SECONDS)
            if bus.client.is_connected:
                self.reason = ""
                await self._renew(bus)
            else:
                await self._understand(bus.client.last_error)
        await self._understand(bus.client.last_error)

    async def _renew(self, bus: Bus) -> None:
        """Present the bearer that stands in the file by now: the one before may end, and the connection with it."""
        try:
            found = digest(self._identity.current())
        except (OSError, ValueError):
            return  # it is being replaced
        if found == self._presented or time.monotonic() < self._renew_after:
            return
        try:
            await bus.renew()
        except (Unavailable, TimeoutError) as error:
            self._renew_after = time.monotonic() + RENEW_AGAIN_SECONDS
            log.warning("the new credential is not taken", reason=str(error), file=str(self._identity.file))
        else:
            self._presented = found
            log.info("credential renewed", caller=bus.caller)

    async def _connect(self) -> Bus:
        self._presented = digest(self._identity.current())
        bus = await Bus.connect(self._settings.nats_url, self._identity)
        self.reason = ""
        return bus

    async def _understand(self, error: Exception | None) -> None:
        """Find out why. Raises `Unauthenticated` where the bus admits others; `Unfit` as it came."""
        if isinstance(error, Unavailable) and error.final:
            raise error
        before, self.reason = self.reason, str(error or "").removeprefix("nats: ")
        if _is_refusal(error):
            self.reason = NOBODY_ADMITS
            if await self._admits(AdmittedIdentity("login", ca=self._settings.nats_ca)):
                # Perhaps since a moment ago.
                refused = not await self._admits(self._identity)
                if refused and not self._is_replaced():
                    raise Unauthenticated(REFUSED if self._identity.bearer else NO_CREDENTIAL)
                self.reason = REFUSED_POD if refused else ""
        if self.reason != before:
            log.warning("not on the bus", url=self._settings.nats_url, reason=self.reason)

    def _is_replaced(self) -> bool:
        """Tell whether the credential is one that others issue and put anew into its file: it is waited for."""
        return self._identity.file is not None and self._identity.current().count(".") == 2  # a JWT

    async def _admits(self, identity: AdmittedIdentity) -> bool:
        """Tell whether somebody is let in, if nothing else but his credential can keep him out."""
        try:
            bus = await Bus.connect(self._settings.nats_url, identity)
        except Unavailable as error:
            return identity.role == "gateway" and not _is_refusal(error)
        await bus.close(grace=0)
        return True

    @asynccontextmanager
    async def _waiting_room(self) -> AsyncIterator[None]:
        """Answer on the gateway's port meanwhile: alive, and not ready because of `reason`."""

        async def answer(request: web.Request) -> web.Response:
            if request.path == "/healthz":
                return _json(200, {"status": "ok", "version": mcpctl.__version__})
            return _json(503, {"status": "unready", "missing": [f"bus ({self.reason})"]})

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            listener = await listen(cast(web.Server, runner.server), self._settings)
            try:
                yield
            finally:
                listener.close()
        finally:
            await runner.cleanup()


def _is_refusal(error: Exception | None) -> bool:
    """Tell whether the bus was there and let nobody in: it says the same where nobody is there to decide."""
    text = str(error).lower()
    return "authorization" in text or "authentication expired" in text


async def listen(make: Callable[[], asyncio.BaseProtocol], settings: GatewaySettings) -> asyncio.Server:
    """Open the gateway's port. Raises `OSError` that names it, and `ValueError` for a certificate that is none."""
    host, port = settings.http_host, settings.http_port
    try:
        return await asyncio.get_running_loop().create_server(make, host, port, backlog=1024, ssl=settings.https())
    except OSError as error:
        where = f"{host}:{port}"
        raise OSError(
            error.errno, f"cannot listen on {where}: {error.strerror} (MCPCTL_HTTP_PORT, MCPCTL_HTTP_HOST)"
        ) from error


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
