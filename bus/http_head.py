"""Where an HTTP request goes and which headers it may carry: nothing that could end a line early passes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mcpctl.bus.networks import demand_plain_host

FRAMING = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ),
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?|[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class Url:
    """Where requests go: `authority` for the Host header, `target` for the request line (RFC 9112, 3.2)."""

    tls: bool
    host: str
    port: int
    authority: str
    target: str

    @classmethod
    def parse(cls, url: str) -> "Url":
        """Raise ValueError for all but a plain http(s) URL; its text repeats no query and no password."""
        if not _VISIBLE.fullmatch(url):
            raise ValueError("a URL consists of visible ASCII characters; encode all others")
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in ("http", "https"):
            raise ValueError("a URL starts with http:// or https://")
        if "@" in parts.netloc:
            raise ValueError("a user or password does not belong into a URL; use a header")
        if not _HOST.fullmatch(host) or port == 0:
            raise ValueError("the URL names no valid host and port")
        demand_plain_host(host)
        tls = parts.scheme == "https"
        standard = 443 if tls else 80
        authority = f"[{host}]" if ":" in host else host
        if port not in (None, standard):
            authority = f"{authority}:{port}"
        query = f"?{parts.query}" if parts.query else ""
        return cls(tls, host, port or standard, authority, (parts.path or "/") + query)


def header_lines(headers: Mapping[str, str], reserved: frozenset[str] = FRAMING) -> bytes:
    """Render header lines. Raise ValueError for what could end a line early or change the framing."""
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header name is not a token")
        if name.lower() in reserved:
            raise ValueError(f"the header {name} is not yours to set")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {name} is not plain ASCII on one line")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")
