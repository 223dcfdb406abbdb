"""How the CLI fails: one line on stderr that says what to do, and an exit code that scripts can rely on."""

from typing import Final

DONE: Final = 0
REFUSED: Final = 1
"""Refused by a right, by the state of things, or failed."""
USAGE: Final = 2
"""The command, or what an endpoint answered, breaks a contract."""
UNAVAILABLE: Final = 3
"""Something that is needed is away: the same command may work later."""
INTERRUPTED: Final = 130


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
