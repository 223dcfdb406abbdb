"""Ports on which something can be started."""

import errno
import itertools
import random
import socket

TAKEN = (errno.EADDRINUSE, errno.EACCES)

CHOSEN = range(20_000, 30_000)
"""Where ports are chosen: none of these is given to outgoing connections (`ip_local_port_range`)."""

_offsets = itertools.count(random.randrange(len(CHOSEN)))


def is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there now. Raises `OSError` where `host` is no address of this machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            raise
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now, and another one each time. Raises `OSError` where all are taken."""
    for offset in itertools.islice(_offsets, len(CHOSEN)):
        port = CHOSEN[offset % len(CHOSEN)]
        if is_free(host, port):
            return port
    raise OSError(errno.EADDRINUSE, f"no port from {CHOSEN.start} to {CHOSEN.stop - 1} is free on {host}")


def remembered_or_free(remembered: int | None) -> int:
    """Return the port of the last start where it is free on loopback, else another one."""
    if remembered is not None and is_free("127.0.0.1", remembered):
        return remembered
    return free_port()
