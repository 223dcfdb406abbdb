"""The sealing of stored secrets, which the Catalog can do anew when its key was rotated."""

from mcpctl.bus.contract import Authorized, Call, Message, Need


class Reseal(Authorized):
    """Seal every secret that an older key has sealed under the current one; values and their users stay as they are."""


class Resealed(Message):
    """The id of the key that has sealed all secrets now, and how many of them were sealed anew."""

    key: str
    secrets: int


reseal = Call("catalog.reseal", Reseal, Resealed, callers=("operator",), needs=Need("edit", "secrets"), timeout=30.0)
