"""Whose request it is, as far as addresses go: the peer's own, or the one that a trusted proxy names."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import web

FORWARDED_FOR = "X-Forwarded-For"

OF_A_SITE = 64
"""Bits of an IPv6 address that name one site: whoever has one such network has all the addresses in it."""


class Addresses:
    """Knows the proxies whose `X-Forwarded-For` is believed."""

    def __init__(self, trusted: tuple[IPv4Network | IPv6Network, ...]) -> None:
        self._trusted = trusted
        self.trusts = lru_cache(maxsize=10_000)(self._trusts)

    def of(self, request: web.BaseRequest) -> str:
        """Return the client's address: the last of the forwarded ones that is no trusted proxy, or the peer's."""
        client = request.remote or ""
        if self.trusts(client):
            named = ",".join(request.headers.getall(FORWARDED_FOR, ()))
            for hop in reversed(named.split(",")):
                address = _read(hop)
                if address is None:
                    break
                client = str(address)
                if not self.trusts(client):
                    break
        return site_of(client)

    def _trusts(self, address: str) -> bool:
        read = _read(address)
        return read is not None and any(read in network for network in self._trusted)


@lru_cache(maxsize=10_000)
def site_of(address: str) -> str:
    """Return what an address counts as: itself, or the network of an IPv6 one."""
    read = _read(address)
    if read is None or isinstance(read, IPv4Address):
        return str(read or address)
    return str(IPv6Network((read, OF_A_SITE), strict=False))


def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
