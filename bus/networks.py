"""Which addresses an upstream may have: what is refused in a URL, and what is found out again at every connection.

The ranges are those of the special-purpose registries (RFC 6890; IANA, "IPv4/IPv6 Special-Purpose Address Space"),
as `ipaddress` knows them.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import structlog

log = structlog.get_logger()

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


NEVER = _networks(
    "0.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",  # multicast, reserved, broadcast
    "::/128",
    "fe80::/10",
    "ff00::/8",
    # Metadata services of clouds that are not at a link-local address: AWS, Google, Alibaba, Oracle, Azure.
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "100.100.100.200/32",
    "192.0.0.0/24",
    "168.63.129.16/32",
)
"""Addresses that no setting opens: link-local, metadata services, multicast, reserved, unspecified."""

WORDS = {
    "loopback": _networks("127.0.0.0/8", "::1/128"),
    "private": _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
}
"""What a word stands for in `MCPCTL_UPSTREAM_NETWORKS`; `public` stands for all that is routed globally."""

PUBLIC = "public"
OPEN = "public,private,loopback"
"""The networks of an installation on one's own machine."""

_GLOBAL_V6 = IPv6Network("2000::/3")  # ipaddress takes what is not assigned yet for global too
_NAT64 = IPv6Network("64:ff9b::/96")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class AddressRefused(OSError):
    """A host is at an address that may not be reached; the text does not say at which."""


def demand_plain_host(host: str) -> None:
    """Raise `ValueError` for a host that could not be told from a name, or is at an address that is never reached.

    Resolvers take `0x7f.1`, `2130706433` and `127.1` for addresses (as inet_aton does), and other checks do not.
    """
    try:
        address = ip_address(host)
    except ValueError:
        if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise ValueError("write an address as four decimal numbers, or as IPv6 in brackets") from None
        return
    if unwrapped(address) != address:
        raise ValueError("write the IPv4 address itself, not as IPv6")
    if _is_in(address, NEVER):
        raise ValueError("link-local, metadata, multicast and unspecified addresses are never reached")


def unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for: mapped, 6to4, Teredo, NAT64; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as the system resolves it. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


@dataclass(frozen=True)
class Networks:
    """The addresses that may be reached."""

    ranges: tuple[Network, ...]
    public: bool
    resolve: Resolve = look_up

    @classmethod
    def parse(cls, text: str) -> "Networks":
        """Read words and CIDR ranges, comma separated. Raises `ValueError`."""
        ranges: list[Network] = []
        public = False
        for word in (part.strip() for part in text.split(",")):
            if word == PUBLIC:
                public = True
            elif word in WORDS:
                ranges += WORDS[word]
            elif word:
                try:
                    ranges.append(ip_network(word))
                except ValueError:
                    words = ", ".join((PUBLIC, *WORDS))
                    raise ValueError(f"{word} is neither a range (10.1.0.0/16) nor one of {words}") from None
        return cls(tuple(ranges), public)

    def admits(self, address: Address) -> bool:
        """Tell whether an address may be reached."""
        real = unwrapped(address)
        if _is_in(real, NEVER):
            return False
        globally = real.is_global if isinstance(real, IPv4Address) else real.is_global and real in _GLOBAL_V6
        return (self.public and globally) or _is_in(real, self.ranges)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Resolve a host, once, and return its addresses, all of which may be reached.

        Raises `AddressRefused` where one of them may not: a name that has such an address is not trusted with another.
        """
        found = await self.resolve(host, port)
        for text in found:
            address = ip_address(text)
            if not self.admits(address):
                log.warning("address refused", host=host, address=text)
                if _is_in(unwrapped(address), NEVER):
                    raise AddressRefused("its address is link-local, a metadata service's or multicast: never reached")
                raise AddressRefused("its address is in no network of MCPCTL_UPSTREAM_NETWORKS")
        return found


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
