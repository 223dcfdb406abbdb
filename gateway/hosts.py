"""The names under which a gateway may be addressed: the guard against DNS rebinding."""

from urllib.parse import urlsplit

from mcpctl.gateway.settings import GatewaySettings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::", "")


class Hosts:
    """The names under which this gateway may be addressed: what DNS rebinding would have to forge.

    An entry without a port admits any port. The loopback names always count.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        names = [*LOOPBACK, *settings.allowed_hosts]
        if settings.public_url is not None:
            names.append(urlsplit(settings.public_url).netloc.rpartition("@")[2])
        if settings.http_host not in WILDCARDS:
            names.append(settings.http_host)
        self._allowed = {_split(name) for name in names}
        self._known: set[str] = set()

    def admits(self, host: str) -> bool:
        """Tell whether a `Host` header's value names this gateway."""
        if host in self._known:
            return True
        name, port = _split(host)
        good = name != "" and not self._allowed.isdisjoint({(name, None), (name, port)})
        if good and len(self._known) < 1000:
            self._known.add(host)
        return good

    def admits_origin(self, origin: str) -> bool:
        """Tell whether an `Origin` header's value is a page that this gateway's host served."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and self.admits(parts.netloc)


def _split(host: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{host}" if host.count(":") < 2 or host.startswith("[") else f"//[{host}]")
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", None
