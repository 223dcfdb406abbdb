"""URLs that are refused when they are written down: a router would refuse them whatever its networks are."""

from urllib.parse import urlsplit

from mcpctl.bus.errors import BadRequest
from mcpctl.bus.networks import demand_plain_host


def demand_reachable(what: str, url: str) -> None:
    """Raise `BadRequest` for a URL at whose host nothing is ever reached, or whose host is an oddly written address."""
    try:
        demand_plain_host(urlsplit(url).hostname or "")
    except ValueError as error:
        raise BadRequest(f"the url of {what}: {error}") from error
