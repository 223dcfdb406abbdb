"""Whether a configuration of nats-server keeps what the bus promises: bearers seen and stored by nobody else."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcpctl.bus.nats_url import is_loopback, tls_is_in_front
from mcpctl.cli.nats_syntax import Setting, read

RPC = "rpc"
LISTENERS = {
    "leafnode": (("leafnodes", "leaf"), "leaf nodes join their accounts past these users"),
    "websocket": (("websocket", "ws"), "it is one more door"),
    "mqtt": (("mqtt",), "it stores messages of its clients"),
    "gateway": (("gateway",), "it joins this cluster to another"),
    "profiling": (("prof_port",), "it shows the server's memory"),
}
"""What listens beside the port for clients, by the word that asks for it: its keys, and what is wrong with it."""

ASKED = ("anonymous", "monitor", *LISTENERS)
"""What may be there when it was asked for."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it must be: where, what, and what to do."""

    setting: Setting
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.setting.file}:{self.setting.line}: {self.what}: {self.mend}"


def check(file: Path, *asked: str) -> list[Finding]:
    """Return all that is wrong with a configuration but for what was asked for (some of `ASKED`).

    Raises `ValueError` where it cannot be understood, `OSError` where it cannot be read.
    """
    config = read(file)
    return [
        *_logging(config),
        *_jetstream(config),
        *(() if "anonymous" in asked else _anonymous(config)),
        *_listeners(config, asked),
        *_encryption(config),
    ]


def _logging(config: Setting) -> Iterator[Finding]:
    for name in ("debug", "trace", "trace_verbose"):
        setting = config.get(name)
        if setting is not None and setting.on:
            yield Finding(setting, f"{name} is on", "bearers would stand in the log; take it out")
    for name, account in _accounts(config):
        if (setting := account.get("msg_trace", "trace_dest")) is not None:
            yield Finding(setting, f"account {name.upper()} has a message trace", "take it out")


def _jetstream(config: Setting) -> Iterator[Finding]:
    rpc = config.at("accounts", RPC)
    if rpc is None:
        yield Finding(
            config.get("accounts") or config,
            "there is no account RPC",
            "take accounts.conf as mcpctl nats config writes it: include it",
        )
        return
    setting = rpc.get("jetstream")
    if setting is not None and setting.on:
        yield Finding(setting, "the account RPC has JetStream", "a stream there would store bearers; take it out")


def _anonymous(config: Setting) -> Iterator[Finding]:
    if (setting := config.get("no_auth_user")) is not None and setting.on:
        yield Finding(setting, f"no_auth_user lets everybody in as {setting.text}", "take it out")
    if config.at("authorization", "auth_callout") is None:
        where = config.get("authorization") or config
        yield Finding(where, "no auth callout decides who may connect", "include accounts.conf of mcpctl nats config")
    for name, account in _accounts(config):
        for _, user in (pair for users in [account.get("users")] if users for pair in users.items()):
            if user.get("permissions") is None:
                yield Finding(user, f"a user of account {name.upper()} may do everything there", "give it permissions")


def _listeners(config: Setting, asked: tuple[str, ...]) -> Iterator[Finding]:
    for name, (keys, why) in LISTENERS.items():
        setting = config.get(*keys)
        if setting is not None and setting.on and name not in asked:
            yield Finding(setting, f"{name} was not asked for, and {why}", f"take it out, or give --allow {name}")
    host = config.get("host", "net")
    for key in ("http", "https", "monitor_port", "http_port", "https_port"):
        setting = config.get(key)
        if setting is None or not setting.on or "monitor" in asked:
            continue
        if not is_loopback(_host(setting.text) or (host.text if host else "")):
            yield Finding(
                setting,
                "the monitoring port shows everybody who is connected and what there is",
                "bind it to 127.0.0.1, or give --allow monitor",
            )


def _encryption(config: Setting) -> Iterator[Finding]:
    listen = config.get("listen", "host", "net") or config
    if not is_loopback(_host(listen.text)) and not tls_is_in_front():
        yield from _unencrypted(config, listen, "clients beyond loopback")
    cluster = config.get("cluster")
    if cluster is not None and isinstance(cluster.value, dict):
        where = cluster.get("listen", "host", "net") or cluster
        if cluster.get("authorization") is None:
            yield Finding(cluster, "any server may join the cluster", "include cluster.conf of mcpctl nats config")
        if not is_loopback(_host(where.text)):
            yield from _unencrypted(cluster, where, "other servers beyond loopback")
            if (tls := cluster.get("tls")) is not None and not ((verify := tls.get("verify")) and verify.on):
                yield Finding(tls, "it asks the cluster's servers for no certificate", "add ca_file and verify: true")


def _unencrypted(holder: Setting, where: Setting, who: str) -> Iterator[Finding]:
    clear = holder.get("allow_non_tls")
    if holder.get("tls") is None:
        yield Finding(
            where,
            f"it listens for {who} without TLS",
            "add a tls block (mcpctl nats certs), or set MCPCTL_TLS=terminated-by-proxy where something in front does",
        )
    elif clear is not None and clear.on:
        yield Finding(clear, f"it lets {who} do without TLS", "take allow_non_tls out")


def _accounts(config: Setting) -> Iterator[tuple[str, Setting]]:
    accounts = config.get("accounts")
    if accounts is not None:
        yield from accounts.items()


def _host(listen: str) -> str:
    """Return the host of `host:port`; empty, which is everywhere, where there is a port alone."""
    if listen.isdigit():
        return ""
    host, colon, port = listen.rpartition(":")
    return (host if colon and port.isdigit() else listen).strip("[]")
