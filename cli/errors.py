"""How the CLI fails: one line on stderr that says what to do, and an exit code that scripts can rely on."""

from typing import Final

from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Forbidden, Internal, Unauthenticated, Unavailable

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


def log_in_first(user: str | None = None) -> CliError:
    """Return the error of a command that has no live login session."""
    ended = "the login session has ended" if user else "not logged in"
    return CliError(f"{ended}: run mcpctl login --user {user or 'NAME'}")


def explain(error: BusError, user: str | None = None) -> CliError:
    """Say what a bus error means to the one at the keyboard. `user` is whose session was used."""
    text = str(error) or error.code
    if isinstance(error, Unauthenticated):
        return log_in_first(user) if text in ENDED else CliError(text)
    if isinstance(error, Forbidden):
        return CliError(f"not allowed: {text}")
    if isinstance(error, BadRequest):
        return CliError(text, USAGE)
    if isinstance(error, Unavailable):
        return CliError(f"{text}: is mcpctl up running? See mcpctl status", UNAVAILABLE)
    if isinstance(error, DeadlineExceeded):
        return CliError(f"{text}; it may have been done: look before you repeat it", UNAVAILABLE)
    if isinstance(error, Internal):
        return CliError(f"{text} (mcpctl up keeps the logs below its data folder)")
    return CliError(text)
