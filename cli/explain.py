"""What the errors of the bus, of validation and of the system mean to the one at the keyboard."""

import os
import re

from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Forbidden, Internal, Unauthenticated, Unavailable
from mcpctl.bus.names import LABEL_PATTERN, USER_PATTERN
from mcpctl.cli.errors import REFUSED, UNAVAILABLE, USAGE, CliError, NotLoggedIn

TAG_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$"
"""That of a prompt's tags, whose contract takes long to load."""

ENDED = ("expired", "revoked", "unknown")
"""What `Unauthenticated` says of a bearer that no longer works."""

WORDS = {
    "Value error, ": "",
    "Input should be": "must be",
    "Field required": "is missing",
    f"String should match pattern '{LABEL_PATTERN.removesuffix(chr(92) + 'Z')}$'": (
        "must be 1 to 63 of a-z, 0-9 and inner hyphens"
    ),
    f"String should match pattern '{USER_PATTERN.removesuffix(chr(92) + 'Z')}$'": (
        "must be letters, digits and inner . _ @ + -"
    ),
    f"String should match pattern '{TAG_PATTERN}'": "must be 1 to 63 of a-z, 0-9 and inner . _ -",
}

MEANINGS: dict[type[BusError], tuple[str, int]] = {
    Forbidden: ("not allowed: {}", REFUSED),
    BadRequest: ("{}", USAGE),
    Unavailable: ("{}: is mcpctl up running? See mcpctl status", UNAVAILABLE),
    DeadlineExceeded: ("{}; it may have been done: look before you repeat it", UNAVAILABLE),
    Internal: ("{} (mcpctl up keeps logs in its data folder)", REFUSED),
}


def explain(error: BusError, user: str | None = None) -> CliError:
    """Return the error with which a command ends. `user` is whose session was used."""
    text = humane(str(error) or error.code)
    if isinstance(error, Unauthenticated) and text in ENDED:
        return NotLoggedIn(user)
    for kind, (words, code) in MEANINGS.items():
        if isinstance(error, kind):
            return CliError(words.replace("{}", text), code)
    return CliError(text)


def humane(text: str) -> str:
    """Return a text without the words of the validator and the numbers of the system."""
    for words, better in WORDS.items():
        text = text.replace(words, better)
    text = re.sub(r"String should match pattern '.*'", "has a form that is not allowed here", text)
    return re.sub(r"\[Errno (\d+)\][^()]*(\(['\da-f:., ]*\))?", lambda found: os.strerror(int(found[1])).lower(), text)
