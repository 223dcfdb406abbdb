"""How the CLI fails: one line on stderr that says what to do, and an exit code that scripts can rely on."""

import re
from typing import Final

from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Forbidden, Internal, Unauthenticated, Unavailable
from mcpctl.bus.names import LABEL_PATTERN, USER_PATTERN

DONE: Final = 0
REFUSED: Final = 1
"""Refused by a right, by the state of things, or failed."""
USAGE: Final = 2
"""The command, or what an endpoint answered, breaks a contract."""
UNAVAILABLE: Final = 3
"""Something that is needed is away: the same command may work later."""
INTERRUPTED: Final = 130

ENDED = ("expired", "revoked", "unknown")
"""What `Unauthenticated` says of a bearer that no longer works."""


class CliError(Exception):
    """Ends the command: the text goes to stderr after `Error: `."""

    def __init__(self, text: str, code: int = REFUSED) -> None:
        super().__init__(text)
        self.code = code


class NotLoggedIn(CliError):
    """There is no live login session; `user` is whose it was."""

    def __init__(self, user: str | None = None) -> None:
        state = "the login session has ended" if user else "not logged in"
        super().__init__(f"{state}: run mcpctl login --user {user or 'NAME'}")


def humane(text: str) -> str:
    """Return a fault of a message in words: validation speaks of patterns and inputs."""
    text = (
        text.replace("Value error, ", "").replace("Input should be", "must be").replace("Field required", "is missing")
    )
    for pattern, words in PATTERNS.items():
        text = text.replace(f"String should match pattern '{pattern}'", words)
    return re.sub(r"String should match pattern '.*'", "has a form that is not allowed here", text)


PATTERNS = {
    LABEL_PATTERN.replace(r"\Z", "$"): "must be 1 to 63 of a-z, 0-9 and inner hyphens",
    USER_PATTERN.replace(r"\Z", "$"): "must be letters, digits and inner . _ @ + -",
}


def explain(error: BusError, user: str | None = None) -> CliError:
    """Say what a bus error means to the one at the keyboard. `user` is whose session was used."""
    text = str(error) or error.code
    if isinstance(error, Unauthenticated) and text in ENDED:
        return NotLoggedIn(user)
    for kind, (words, code) in MEANINGS.items():
        if isinstance(error, kind):
            return CliError(words.format(humane(text)), code)
    return CliError(text)


MEANINGS: dict[type[BusError], tuple[str, int]] = {
    Forbidden: ("not allowed: {}", REFUSED),
    BadRequest: ("{}", USAGE),
    Unavailable: ("{}: is mcpctl up running? See mcpctl status", UNAVAILABLE),
    DeadlineExceeded: ("{}; it may have been done: look before you repeat it", UNAVAILABLE),
    Internal: ("{} (mcpctl up keeps logs in its data folder)", REFUSED),
}
