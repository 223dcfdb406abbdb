"""The nats-server configuration that `mcpctl up` uses and that a deployment copies: accounts, users, permissions.

Three accounts, so that nothing can store a bearer (RPC has no JetStream) and nobody but its owner can publish a
change feed (EVENTS). RPC hears EVENTS through a stream import, and appends audit events through a service import
whose last token names the writer.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import nkeys

from mcpctl.bus import permissions
from mcpctl.bus.contract import ACTORS, PREFIX
from mcpctl.bus.contracts import audit
from mcpctl.bus.permissions import KICKER, Permissions

EVENT_WRITERS = ("token", "rbac", "catalog", "session", "audit")
STREAM_USERS = ("session", "audit")
ISSUER = "issuer"
CALLOUT = "callout"
PROVISIONER = "provisioner"
ACCOUNTS = "accounts.conf"
CLUSTER = "cluster.conf"
CLUSTER_SECRET = "cluster.secret"  # noqa: S105 - a file
CLUSTER_PORT = 6222
MAX_PAYLOAD = 8 * 1024 * 1024

USERS = (
    *ACTORS,
    *(f"{actor}-events" for actor in EVENT_WRITERS),
    *(f"{actor}-streams" for actor in STREAM_USERS),
    CALLOUT,
    KICKER,
    PROVISIONER,
)


@dataclass(frozen=True)
class Tls:
    """A server's certificate and key, and the CA by which the servers of a cluster know each other."""

    certificate: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True)
class Listen:
    """Where one server listens and keeps its streams.

    `routes` are `host:port` of all servers of a cluster, this one (`name`) among them; none stands alone. `cluster` is
    where this one listens for the others: at `host` and `CLUSTER_PORT`, if nothing else is said.
    """

    port: int
    store: Path
    host: str = "127.0.0.1"
    power_safe: bool = False
    tls: Tls | None = None
    name: str | None = None
    routes: tuple[str, ...] = ()
    cluster: tuple[str, int] | None = None

    @property
    def file(self) -> str:
        """The configuration's name: the servers of a cluster have one each, in the same folder."""
        return f"{self.name or 'nats'}.conf"


@dataclass(frozen=True)
class Auditor:
    """Somebody who hears the ledger's events, of one project or of all, and can do nothing else."""

    name: str
    project: str | None = None

    @property
    def user(self) -> str:
        """The file of the seed, below the keys and without its ending; names are labels, so they hold no dot."""
        return f"auditors/{self.name}" + (f".{self.project}" if self.project else "")


def auditors(keys: Path) -> list[Auditor]:
    """Return the auditors that have a seed: removing the file ends the credential at the next configuration."""
    names = sorted(path.stem for path in (keys / "auditors").glob("*.nk"))
    return [Auditor(name, project or None) for name, _, project in (stem.partition(".") for stem in names)]


def write_keys(folder: Path, *auditors: Auditor) -> None:
    """Make the nkey seeds of all static users and of the callout's issuer that are not there yet (mode 0600)."""
    for name in (*USERS, ISSUER, *(auditor.user for auditor in auditors)):
        path = folder / f"{name}.nk"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            continue
        kind = nkeys.PREFIX_BYTE_ACCOUNT if name == ISSUER else nkeys.PREFIX_BYTE_USER
        seed = nkeys.encode_seed(os.urandom(32), kind)
        _write_private(path, seed)


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def public_key(folder: Path, name: str) -> str:
    """Return the public half of a seed: all that the server's configuration holds."""
    return str(nkeys.from_seed((folder / f"{name}.nk").read_bytes().strip()).public_key.decode())


def write(folder: Path, listen: Listen, keys: Path) -> Path:
    """Write the configuration and what it includes, with the keys that are there. Returns its path."""
    write_accounts(folder, keys)
    write_cluster(folder, listen, keys)
    config = folder / listen.file
    config.write_text(render(listen))
    return config


def write_accounts(folder: Path, keys: Path) -> None:
    """Write accounts, users and permissions alone: what changes when an auditor comes or goes."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / ACCOUNTS).write_text(render_accounts(keys))


def write_cluster(folder: Path, listen: Listen, keys: Path) -> None:
    """Write what the servers of a cluster share: where they are, and the secret without which nobody is one of them.

    A certificate alone does not make a server one of the cluster: the same CA may have signed others, a gateway's.
    """
    if not listen.routes:
        return
    secret = keys / CLUSTER_SECRET
    if not secret.exists():
        _write_private(secret, secrets.token_hex(32).encode())
    password = secret.read_text().strip()
    routes = json.dumps([f"nats://cluster:{password}@{route}" for route in listen.routes])
    text = f"authorization {{ user: cluster, password: {json.dumps(password)}, timeout: 2 }}\nroutes: {routes}\n"
    _write_private(folder / CLUSTER, f"# Written by mcpctl: changes are lost.\n{text}".encode())


def render(listen: Listen) -> str:
    """Return the server's own part of the configuration."""
    lines = [
        f'listen: "{_bracketed(listen.host)}:{listen.port}"',
        *([f"server_name: {json.dumps(listen.name)}"] if listen.name else ()),
        f"max_payload: {MAX_PAYLOAD}",
        "max_pending: 67108864",
        "max_control_line: 4KB",
        'write_deadline: "2s"',
        'ping_interval: "1s"',
        "ping_max: 2",
        'lame_duck_grace_period: "5s"',  # in which clients have gone elsewhere
        'lame_duck_duration: "30s"',
        *([f"tls {_tls(listen.tls)}"] if listen.tls else ()),
        f"jetstream {{ store_dir: {_text(listen.store)}{', sync_interval: always' if listen.power_safe else ''} }}",
        *([_cluster(listen)] if listen.routes else ()),
        f"include {ACCOUNTS}",
    ]
    return "# Written by mcpctl.\n" + "\n".join(lines) + "\n"


def _cluster(listen: Listen) -> str:
    host, port = listen.cluster or (listen.host, CLUSTER_PORT)
    tls = [f"  tls {_tls(listen.tls, verify=True)}"] if listen.tls else []
    lines = ["  name: mcpctl", f'  listen: "{_bracketed(host)}:{port}"', *tls, f"  include {CLUSTER}"]
    return "\n".join(("cluster {", *lines, "}"))


def _tls(tls: Tls, *, verify: bool = False) -> str:
    ca = f", ca_file: {_text(tls.ca)}, verify: true" if verify and tls.ca else ""
    return f"{{ cert_file: {_text(tls.certificate)}, key_file: {_text(tls.key)}{ca}, timeout: 2 }}"


def _text(path: Path) -> str:
    return json.dumps(str(path))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def render_accounts(keys: Path) -> str:
    """Return accounts, users and their permissions."""

    def user(name: str, granted: Permissions) -> str:
        allowed = f"publish: {_only(granted.publish)}, subscribe: {_only(granted.subscribe)}"
        return f"      {{ nkey: {public_key(keys, name)}, permissions: {{ {allowed} }} }}"

    rpc = [user(actor, permissions.of(actor, actor)) for actor in ACTORS]
    events = [user(f"{actor}-events", permissions.events_writer(actor)) for actor in ACTORS if actor in EVENT_WRITERS]
    listeners = auditors(keys)
    events += [user(auditor.user, permissions.auditor(auditor.project)) for auditor in listeners]
    streams = [user(f"{actor}-streams", permissions.streams_user(actor)) for actor in ACTORS if actor in STREAM_USERS]
    streams.append(user(PROVISIONER, Permissions(["$JS.API.>"], [f"_INBOX.{PROVISIONER}.>"])))
    static = [public_key(keys, name) for name in (*USERS, *(auditor.user for auditor in listeners))]
    newline = "\n"
    return f"""\
# Written by mcpctl from its contracts: changes are lost.
accounts {{
  AUTH {{
    users: [
{user(CALLOUT, permissions.callout_user())}
    ]
  }}
  EVENTS {{
    exports: [ {{ stream: "{PREFIX}.event.*.*" }}, {{ stream: "{audit.TAIL}" }} ]
    users: [
{newline.join(events)}
    ]
  }}
  STREAMS {{
    jetstream: enabled
    exports: [ {{ service: "{audit.APPEND}.*" }} ]
    users: [
{newline.join(streams)}
    ]
  }}
  RPC {{
    imports: [
      {{ service: {{ account: STREAMS, subject: "{audit.APPEND}.*" }} }}
      {{ stream: {{ account: EVENTS, subject: "{PREFIX}.event.*.*" }} }}
      {{ stream: {{ account: EVENTS, subject: "{audit.TAIL}" }} }}
    ]
    users: [
{newline.join(rpc)}
    ]
  }}
  SYS {{
    users: [
{user(KICKER, permissions.kicker())}
    ]
  }}
}}
system_account: SYS
authorization {{
  timeout: 3
  auth_callout {{ issuer: {public_key(keys, ISSUER)}, account: AUTH, auth_users: {_list(static)} }}
}}
"""


def _only(subjects: list[str]) -> str:
    """Return the rule that lets these subjects through alone: an empty `allow` would let all of them through."""
    return f"{{ allow: {_list(subjects)} }}" if subjects else '{ deny: [">"] }'


def _list(subjects: list[str]) -> str:
    return json.dumps(subjects)
