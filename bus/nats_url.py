"""Where the bus is: `nats://`, `tls://`, `ws://` or `wss://` and a host; and which certificates it is believed by.

The servers of a cluster are named one after the other, with a comma in between.
"""

import ipaddress
import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

TERMINATED = "terminated-by-proxy"
SCHEMES = ("nats", "tls", "ws", "wss")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?|[0-9A-Fa-f:.]+")


def checked_url(text: str) -> str:
    """Return the NATS URLs of a text, which all can be used. Raises `ValueError`, whose text repeats no password.

    `nats://` speaks TLS where the server asks for it, `tls://` always, `ws://` and `wss://` are WebSockets.
    """
    urls = servers(text)
    for url in urls:
        _check(url)
    if len({is_websocket(url) for url in urls}) > 1:
        raise ValueError("the URLs of the bus are all of WebSockets, or none is")
    return ",".join(urls)


def servers(text: str) -> list[str]:
    """Return the URL of each server that a text names."""
    return [url.strip() for url in text.split(",")]


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the URL of the bus has no valid host and port") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("the URL of the bus starts with nats://, tls://, ws:// or wss://")
    if "@" in parts.netloc:
        raise ValueError("a user or password does not belong into the URL of the bus: log in, or set MCPCTL_TOKEN")
    if not _VISIBLE.fullmatch(url) or not _HOST.fullmatch(parts.hostname or "") or port == 0:
        raise ValueError("the URL of the bus has no valid host and port")
    if parts.query or parts.fragment or (parts.path.strip("/") and not is_websocket(url)):
        raise ValueError(f"the URL of the bus ends after host and port, such as {parts.scheme}://host:4222")


def is_websocket(url: str) -> bool:
    """Tell whether a NATS URL is one of a WebSocket; of several, all or none are."""
    return url.startswith(("ws://", "wss://"))


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its name or address; an empty one is every address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def tls_is_in_front() -> bool:
    """Tell whether the operator says that something in front (a proxy, a mesh) speaks TLS for what listens here."""
    return os.environ.get("MCPCTL_TLS") == TERMINATED


def must_encrypt(url: str) -> bool:
    """Tell whether a connection may not go without TLS: to another machine, and nobody said who else encrypts it."""
    return not is_loopback(urlsplit(url).hostname or "") and not tls_is_in_front()


def demand_encrypted(url: str) -> None:
    """Raise `ValueError` for the URL of something that would be believed over plain HTTP from another machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("must begin with https:// and name a host")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"{parts.hostname} is beyond loopback: it is believed over https:// alone")


def trust(ca: str | None) -> ssl.SSLContext | None:
    """Return what believes certificates of the CAs in a PEM file alone; None, the system's trust, without a file.

    Raises `ValueError` where the file is none.
    """
    return None if ca is None else _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca)


def trust_also(ca: str | None) -> ssl.SSLContext:
    """Return what believes the system's CAs and those in a PEM file. Raises `ValueError` where the file is none."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context if ca is None else _loaded(context, ca)


def _loaded(context: ssl.SSLContext, ca: str) -> ssl.SSLContext:
    try:
        context.load_verify_locations(Path(ca).expanduser())
    except ssl.SSLError as error:
        raise ValueError(f"{ca} holds no certificate in PEM form") from error
    except OSError as error:
        raise ValueError(f"cannot read the CA file {ca}: {error.strerror}") from error
    return context
