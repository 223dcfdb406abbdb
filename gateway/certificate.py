"""When the gateway's certificate ends, for metrics: a renewed file counts once the gateway has started with it."""

import time
from collections.abc import Iterator
from pathlib import Path

from mcpctl.bus import measured, metrics


class Certificate:
    """The certificate that was served first of a PEM file. Raises `ValueError` where there is none in it."""

    def __init__(self, path: Path) -> None:
        from cryptography import x509  # noqa: PLC0415 - 0.1 s, for those alone that serve HTTPS

        found = x509.load_pem_x509_certificate(path.read_bytes())
        self._ends = found.not_valid_after_utc.timestamp()
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what is left."""
        yield measured.CERTIFICATE_LEFT, self._ends - time.time(), ()
