"""`mcpctl up`: nats-server, the actors, a router and a gateway as children of one supervisor."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcpctl.bus import provision
from mcpctl.bus.errors import BusError
from mcpctl.bus.nats_url import is_loopback, tls_is_in_front
from mcpctl.bus.networks import OPEN
from mcpctl.cli import ports
from mcpctl.cli.context import Config
from mcpctl.cli.data_folder import DataFolder
from mcpctl.cli.demo import Demo
from mcpctl.cli.errors import CliError
from mcpctl.cli.first_start import ADMIN, FirstUser, session_lives, store_context
from mcpctl.cli.nats_server import NatsServer
from mcpctl.cli.supervisor import Part, Supervisor

STATEFUL_ACTORS = ("token", "rbac", "catalog", "session", "audit")
OWN_VARIABLES = ("MCPCTL_TOKEN", "MCPCTL_CONFIG", "MCPCTL_CONTEXT", "MCPCTL_NATS_TOKEN", "MCPCTL_NATS_TOKEN_FILE")
"""Settings of the CLI, or of other installations: not for the children."""

METRICS_ORDER = ("gateway", "actors", "router")

OPEN_TO_ITS_USER = {"MCPCTL_UPSTREAM_NETWORKS": OPEN, "MCPCTL_STDIO_COMMANDS": "*"}
"""What holds on one's own machine unless the environment says otherwise: its user may reach and start these anyway."""


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    data: Path
    http_host: str = "127.0.0.1"
    http_port: int = 3200
    nats_port: int | None = None
    demo: bool = False
    verbose: bool = False
    power_safe: bool = False


def up(options: Options) -> None:
    """Run until SIGINT or SIGTERM. Raises `CliError` where the start fails."""
    Config.load()  # a configuration that cannot be used is no reason to fail later
    with DataFolder(options.data) as folder:
        asyncio.run(Installation(options, folder).run())


class Installation:
    """One `mcpctl up`, from the start to the end of its children."""

    def __init__(self, options: Options, folder: DataFolder) -> None:
        self._options, self._folder = options, folder
        self._supervisor = Supervisor(say)
        self._http_port = _http_port(options)
        _demand_tls(options.http_host)
        self._nats = NatsServer(folder.path / "nats", _nats_port(options, folder), power_safe=options.power_safe)
        self._demo = Demo(folder) if options.demo else None
        self._first_user = FirstUser(folder)
        self._began = time.monotonic()

    async def run(self) -> None:
        stop = asyncio.Event()
        signals = 0

        def asked_to_stop() -> None:
            nonlocal signals
            signals += 1
            stop.set()
            if signals > 1:
                self._supervisor.kill()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, asked_to_stop)
        stopped = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            elif starting.exception() is None:
                await stopped
                say("stopping (a second Ctrl-C does it at once)")
            await asyncio.gather(starting, return_exceptions=True)
        finally:
            stopped.cancel()
            await self._supervisor.stop()
        if not starting.cancelled():
            starting.result()

    async def _start(self) -> None:
        try:
            await self._start_parts()
            logged_in = await self._first_user.create(self._nats.url)
            name, context = store_context(self._folder.path, self._nats.url, self._gateway_url, logged_in)
            lives = logged_in is not None or await session_lives(context)
            demo = await self._demo.set_up(context if lives else None, self._gateway_url) if self._demo else []
        except BusError as error:
            raise CliError(f"the start failed: {error} (logs: {self._folder.path / 'logs'})") from error
        say(f"mcpctl is ready ({time.monotonic() - self._began:.1f} s)")
        say(f"  gateway  {self._gateway_url}")
        say(f"  bus      {self._nats.url}")
        say(f"  data     {self._folder.path}")
        if logged_in is not None:
            password = self._first_user.reveal(on_terminal=sys.stdout.isatty())
            say(f"  login    user {logged_in.user}; {password}")
            say(f'  CLI      logged in as {logged_in.user} in context "{name}"')
        elif not lives:
            login = f"mcpctl login --context {name} --user {context.user or ADMIN}"
            say(f"  CLI      the login session has ended: run {login}")
        for line in demo:
            say(line)
        say("Stop with Ctrl-C.")

    async def _start_parts(self) -> None:
        self._first_user.prepare()
        actors = self._python("actors", "mcpctl.actors", *STATEFUL_ACTORS)
        router = self._python("router", "mcpctl.actors", "router")
        gateway = self._python("gateway", "mcpctl.gateway")
        await self._supervisor.prepare(actors, router, gateway)
        await self._supervisor.start(self._adopt(self._nats.part(self._log("nats-server"))))
        await provision.provision(self._nats.url, self._nats.keys)
        self._folder.remember(nats_port=self._nats.port)
        await self._supervisor.start(actors, router)
        upstreams = self._demo.parts() if self._demo else []
        # After the actors: until the TokenRegistry answers, the bus admits no gateway.
        await self._supervisor.start(*(self._adopt(part) for part in upstreams), gateway)

    def _python(self, name: str, module: str, *arguments: str) -> Part:
        part = self._adopt(Part(name, (sys.executable, "-m", module, *arguments), self._log(name)))
        part.environment = self._environment() | _metrics_port(name)
        return part

    def _adopt(self, part: Part) -> Part:
        part.environment = self._environment()
        part.inherited = (self._folder.lock_descriptor,)
        part.echo = self._options.verbose
        return part

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        return (
            OPEN_TO_ITS_USER
            | inherited
            | {
                "MCPCTL_NATS_URL": self._nats.url,
                "MCPCTL_NATS_KEYS": str(self._nats.keys),
                "MCPCTL_DATA_DIR": str(self._folder.path),
                "MCPCTL_BOOTSTRAP_FILE": str(self._first_user.secret_file),
                "MCPCTL_BUS_ANONYMOUS_EDGE": "true",
                "MCPCTL_HTTP_HOST": self._options.http_host,
                "MCPCTL_HTTP_PORT": str(self._http_port),
            }
        )

    def _log(self, name: str) -> Path:
        return self._folder.path / "logs" / f"{name}.log"

    @property
    def _gateway_url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._options.http_host, self._options.http_host)
        scheme = "https" if os.environ.get("MCPCTL_TLS_CERT") else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._http_port}"


def say(line: str) -> None:
    """Tell the one at the terminal; that nobody listens any more is no reason to stop."""
    with suppress(OSError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _metrics_port(part: str) -> dict[str, str]:
    """Return a port of its own for each part, from `MCPCTL_METRICS_PORT` on: gateway, actors, router."""
    first = os.environ.get("MCPCTL_METRICS_PORT", "")
    return {"MCPCTL_METRICS_PORT": str(int(first) + METRICS_ORDER.index(part))} if first.isdigit() else {}


def _http_port(options: Options) -> int:
    if options.http_port == 0:
        return ports.free_port()
    try:
        free = ports.is_free(options.http_host, options.http_port)
    except OSError as error:
        raise CliError(f"cannot listen on {options.http_host}: {error.strerror}") from error
    if not free:
        raise CliError(f"port {options.http_port} on {options.http_host} is taken: choose another with --http-port")
    return options.http_port


def _demand_tls(host: str) -> None:
    """Raise `CliError` where agents' bearers would travel in clear beyond this machine."""
    if not is_loopback(host) and not tls_is_in_front() and not os.environ.get("MCPCTL_TLS_CERT"):
        raise CliError(
            f"{host} is beyond loopback: set MCPCTL_TLS_CERT and MCPCTL_TLS_KEY, or MCPCTL_TLS=terminated-by-proxy "
            "where something in front speaks TLS"
        )


def _nats_port(options: Options, folder: DataFolder) -> int:
    if options.nats_port is None:
        return ports.remembered_or_free(folder.remembered_port("nats_port"))
    if not ports.is_free("127.0.0.1", options.nats_port):
        raise CliError(
            f"port {options.nats_port} on 127.0.0.1 is taken: choose another with --nats-port, or leave it out"
        )
    return options.nats_port
