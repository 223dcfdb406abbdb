"""The first user of a new installation, and the CLI context of the one who runs `mcpctl up`."""

import secrets
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError, Conflict, Unauthenticated
from mcpctl.cli.context import Config, Context
from mcpctl.cli.data_folder import DataFolder
from mcpctl.cli.errors import CliError, NotLoggedIn
from mcpctl.cli.private_file import read_private, write_private
from mcpctl.cli.session import anonymous, connected

ADMIN = "admin"


class FirstUser:
    """Creates `admin` once. The files below survive a start that was cut off, and are gone after one that was not."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self.secret_file = folder.path / "bootstrap-secret"
        self.password_file = folder.path / "admin-password"

    def prepare(self) -> None:
        """Leave a one-time secret for the token actor, before it starts."""
        if not self._folder.has_admin:
            write_private(self.secret_file, secrets.token_urlsafe(32) + "\n")

    async def create(self, nats_url: str) -> token.LoggedIn | None:
        """Create the user with a random password and log in; None where it was there already. Raises `CliError`."""
        if self._folder.has_admin:
            return None
        password = read_private(self.password_file) or secrets.token_urlsafe(15)
        write_private(self.password_file, password)
        secret = (read_private(self.secret_file) or "").strip()
        try:
            async with anonymous(Context(nats_url)) as door:
                with suppress(Conflict):  # a start that was cut off came so far
                    await door.ask(token.bootstrap, secret=secret, user=ADMIN, password=password)
                logged_in = await door.ask(token.login, user=ADMIN, password=password)
        except BusError as error:
            raise CliError(f"the first user cannot be created: {error}") from error
        self._folder.remember(admin=True)
        self.secret_file.unlink(missing_ok=True)
        return logged_in

    def reveal(self, *, on_terminal: bool) -> str:
        """Return what to tell about the password. It is shown on a terminal alone, then forgotten."""
        password = read_private(self.password_file)
        if not on_terminal:
            return f"its password is in {self.password_file}: read it, then delete the file"
        self.password_file.unlink(missing_ok=True)
        return f"its password is {password} (shown only now)"


def own_context(config: Config, data: Path) -> str:
    """Return the name of the context that belongs to a data folder: the one that names it, or a new one.

    A new one is `local`, or `local-2` and so on where that name is taken by another installation.
    """
    for name, context in config.contexts.items():
        if context.data == str(data):
            return name
    number, name = 1, "local"
    while name in config.contexts:
        number += 1
        name = f"local-{number}"
    return name


def store_context(data: Path, nats_url: str, gateway_url: str, logged_in: token.LoggedIn | None) -> tuple[str, Context]:
    """Write down where this installation is reached now, and (if new) whose session to use. Raises `CliError`."""
    config = Config.load()
    name = own_context(config, data)
    known = config.contexts.get(name)
    context = replace(known or Context(), nats_url=nats_url, gateway_url=gateway_url, data=str(data))
    if logged_in is not None:
        context = replace(context, user=logged_in.user, bearer=logged_in.bearer)
    if context != known:
        config.contexts[name] = context
        if known is None or config.current is None:
            config.current = name
        config.save()
    return name, context


async def session_lives(context: Context) -> bool:
    """Tell whether the context's login session still works."""
    if context.bearer is None:
        return False
    try:
        async with connected(context) as session:
            await session.ask(token.whoami)
    except (Unauthenticated, NotLoggedIn):
        return False
    return True
