"""Cursors of merged lists: what is left at each server, sealed, so that a client can only hand it back.

A cursor is good for whoever got it, for the same list of the same project: another bearer could not use it.
"""

from collections.abc import Mapping

import msgspec

from mcpctl.actors.upstream_router.request_state import Seal
from mcpctl.bus.mcp_messages import decode_fields, encode

PURPOSE = "list cursor"
Left = Mapping[str, msgspec.Raw]
"""By server: its own cursor, as it wrote it."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Cursors:
    """The cursors of one list; `bound` says which, and for whom."""

    def __init__(self, seal: Seal, *bound: str) -> None:
        self._seal, self._bound = seal, encode(bound)

    def left(self, params: bytes) -> Left | None:
        """Return what is left at each server; None where the list begins. Raises `ValueError` for another's cursor."""
        sent = bytes(decode_fields(params).get("cursor", b"null"))
        if sent == b"null":
            return None
        try:
            cursor = msgspec.json.decode(sent, type=str)
            return _decode(self._seal.unseal(PURPOSE, cursor, self._bound))
        except ValueError as error:  # msgspec's errors are among these
            raise ValueError("cursor is not one of this list, or not yours: list again without one") from error

    def of(self, left: Left) -> msgspec.Raw:
        """Return the cursor that a client is given."""
        return msgspec.Raw(encode(self._seal.seal(PURPOSE, encode(left), self._bound)))
