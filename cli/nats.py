"""`mcpctl nats`: the configuration, keys and certificates of a bus, and a look at a configuration that is in use."""

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from mcpctl.bus import nats_config, provision
from mcpctl.bus.connection import OLDEST_SERVER, version_of
from mcpctl.bus.errors import BusError
from mcpctl.bus.names import is_label
from mcpctl.bus.nats_config import Auditor, Listen, Tls
from mcpctl.cli import nats_check
from mcpctl.cli.certificates import Certificates
from mcpctl.cli.command_groups import Group
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.nats_server import binary
from mcpctl.cli.output import note, say

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Make and check the configuration of nats-server.")

LOCAL = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"[0-9A-Za-z*]([0-9A-Za-z.-]*[0-9A-Za-z])?|[0-9A-Fa-f:.]+")
ROUTE = re.compile(r"[0-9A-Za-z.-]+:\d{1,5}")
SYNTAX_SECONDS = 10

Folder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where the files are, or are to be.")]


@app.command()
def config(
    *,
    folder: Folder,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server listens for clients.")
    ] = "127.0.0.1:4222",
    certificate: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Its certificate (default: server.pem, if there).")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's key.")] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of its streams (default: streams below --folder).")
    ] = None,
    power_safe: Annotated[
        bool, typer.Option("--power-safe", help="Write each audit event to the disk before it is acknowledged.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Its name in a cluster.")] = None,
    route: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="A server of the cluster; all of them, this one too.")
    ] = None,
    cluster_listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where it listens for them (default: as for clients, at port 6222)."),
    ] = None,
    auditor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Give somebody a credential that hears audit events alone.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("-p", "--project", metavar="PROJECT", help="... those of one project.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a nats.conf that is another one.")] = False,
) -> None:
    """Write nats.conf, accounts.conf, and the keys of all users that are missing.

    Keys are never replaced; accounts.conf always is; nats.conf is yours once it is there. The servers of a cluster
    have NAME.conf each instead, and cluster.conf together.

    \b
    Examples:
      mcpctl nats config --folder bus
      mcpctl nats config --folder bus --listen 0.0.0.0:4222
      mcpctl nats config --folder bus --auditor ops
      mcpctl nats config --folder bus --auditor shop-team --project shop
      mcpctl nats config --folder bus --name a --listen 0.0.0.0:4222 --route a:6222 --route b:6222 --route c:6222
    """  # noqa: D301 - \b keeps the examples' lines apart
    folder = folder.expanduser().absolute()
    keys = folder / "keys"
    listener = _auditor(auditor, project)
    host, port = _host_and_port(listen)
    tls = _tls(folder, certificate, key)
    routes = tuple(route or ())
    if bool(routes) != (name is not None) or not all(ROUTE.fullmatch(item) for item in routes):
        raise CliError("a server of a cluster has a --name and a --route HOST:PORT for each, itself too", USAGE)
    if name is not None and not is_label(name):
        raise CliError(f"{name!r} is no name: small letters, digits and hyphens", USAGE)
    cluster = None if cluster_listen is None else _host_and_port(cluster_listen, "--cluster-listen")
    store = store or folder / "streams" / (name or "")
    wanted = Listen(port, store, host, power_safe, tls, name, routes, cluster)
    try:
        nats_config.write_keys(keys, *([listener] if listener else ()))
        nats_config.write_accounts(folder, keys)
        path = folder / wanted.file
        text = nats_config.render(wanted)
        asked = listener is None or not path.exists()
        if asked and path.exists() and path.read_text() != text and not force:
            raise CliError(f"{path} is there and is another one: edit it, or replace it with --force")
        if asked:
            nats_config.write_cluster(folder, wanted, keys)
            path.write_text(text)
    except OSError as error:
        raise CliError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    say(f"configuration {path}")
    say(f"keys          {keys}")
    if listener is not None:
        say(f"auditor       {keys / listener.user}.nk")
        note("nats-server knows a new auditor once it was restarted: it takes no new users at a reload.")


@app.command()
def certs(
    *,
    folder: Folder,
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name or address of the server; this machine's are in.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, metavar="DAYS", help="How long the certificate is good.")] = 365,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new certificate of the CA that is there.")] = False,
) -> None:
    """Make a CA and a server's certificate.

    Files are mode 0600. What is there is not replaced. Give ca.pem to whoever connects, and ca.key to nobody.

    \b
    Examples:
      mcpctl nats certs --folder bus --host nats.example.org
      mcpctl nats certs --folder bus --host nats.example.org --rotate
    """  # noqa: D301 - \b keeps the examples' lines apart
    named = tuple(dict.fromkeys((*(host or ()), *LOCAL)))
    for item in named:
        if not HOST.fullmatch(item):
            raise CliError(f"{item!r} is no name or address of a host", USAGE)
    folder = folder.expanduser().absolute()
    made = Certificates(folder)
    expires = made.make(named, days, rotate=rotate)
    say(f"certificate {made.certificate}, for {', '.join(named)}, until {expires:%Y-%m-%d %H:%M} UTC")
    say(f"CA          {made.ca}: clients believe it by MCPCTL_NATS_CA={made.ca}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A configuration of nats-server.")],
    *,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help=f"What you asked for: {', '.join(nats_check.ASKED)}."),
    ] = None,
) -> None:
    """Look at a configuration, those that it includes, and nats-server itself: one line for each thing that is wrong.

    \b
    Examples:
      mcpctl nats check /etc/nats/nats.conf
      mcpctl nats check nats.conf --allow websocket
    """  # noqa: D301 - \b keeps the examples' lines apart
    asked = tuple(allow or ())
    if unknown := [word for word in asked if word not in nats_check.ASKED]:
        raise CliError(f"cannot allow {unknown[0]!r}: there are {', '.join(nats_check.ASKED)}", USAGE)
    try:
        findings = [*_of_server(file), *(str(finding) for finding in nats_check.check(file, *asked))]
    except (ValueError, OSError) as error:
        reason = f"cannot read {file}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise CliError(reason) from error
    for line in findings:
        say(line)
    if findings:
        raise CliError(f"{file} is not fit for mcpctl: {len(findings)} to mend")
    say(f"{file} is fit for mcpctl")


@app.command("provision")
def provision_streams(
    *,
    nats_url: Annotated[str, typer.Option(metavar="URL", help="The bus.")],
    keys: Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of the keys.")],
    replicas: Annotated[int, typer.Option(min=1, max=5, metavar="N", help="Servers that hold each stream.")] = 1,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="The CA that signed the bus's certificate.")] = None,
) -> None:
    """Create the streams that are missing, and bring those with fewer copies to as many as are asked for.

    It returns once all copies are current.

    \b
    Examples:
      mcpctl nats provision --nats-url tls://nats.example.org:4222 --keys bus/keys --ca bus/ca.pem --replicas 3
    """  # noqa: D301 - \b keeps the examples' lines apart
    try:
        lines = asyncio.run(provision.provision(nats_url, keys, replicas=replicas, ca=ca))
    except BusError as error:
        raise explain(error, None) from error
    except (OSError, ValueError) as error:
        raise CliError(f"cannot use the keys in {keys}: {error}") from error
    for line in lines:
        say(line)


def _of_server(file: Path) -> list[str]:
    """Return what nats-server itself has to say: it is too old, or does not take the file."""
    program = binary()
    said = _run(program, "-v").stdout
    found = version_of(said.rpartition("v")[2])
    findings = []
    if found < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        findings.append(f"{program}: it is version {said.split()[-1]}: take {oldest} or newer")
    tried = _run(program, "-t", "-c", str(file))
    if tried.returncode != 0:
        findings.append(f"{file}: {' '.join((tried.stderr or tried.stdout).split())}: mend it")
    return findings


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=SYNTAX_SECONDS, check=False)  # noqa: S603


def _auditor(name: str | None, project: str | None) -> Auditor | None:
    if name is None:
        if project is not None:
            raise CliError("--project says which events an --auditor hears: name the auditor", USAGE)
        return None
    for word in (name, project):
        if word is not None and not is_label(word):
            raise CliError(f"{word!r} is no name: small letters, digits and hyphens", USAGE)
    return Auditor(name, project)


def _host_and_port(listen: str, option: str = "--listen") -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit() or not 0 < int(port) < 65536 or not HOST.fullmatch(host):
        raise CliError(f"{option} is HOST:PORT, such as 0.0.0.0:4222", USAGE)
    return host, int(port)


def _tls(folder: Path, certificate: Path | None, key: Path | None) -> Tls | None:
    """Return what to encrypt with: the files given, or those that `mcpctl nats certs` has left in the folder."""
    if (certificate is None) != (key is None):
        raise CliError("--tls-cert and --tls-key belong together", USAGE)
    made = Certificates(folder)
    ca = made.ca if made.ca.exists() else None
    if certificate is not None and key is not None:
        return Tls(certificate.expanduser().absolute(), key.expanduser().absolute(), ca)
    return Tls(made.certificate, made.key, made.ca) if made.certificate.exists() else None
