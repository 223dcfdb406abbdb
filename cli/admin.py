"""`mcpctl admin`: help on the host itself, for whoever may read the data folder of `mcpctl up`."""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_path

from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError
from mcpctl.cli.command_groups import Group
from mcpctl.cli.context import Config, Context, with_environment
from mcpctl.cli.data_folder import DataFolder
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.first_start import ADMIN, FirstUser, own_context
from mcpctl.cli.given import ask_password
from mcpctl.cli.output import say
from mcpctl.cli.private_file import write_private
from mcpctl.cli.session import anonymous

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False, help="Help on the host itself.")


@app.callback()
def _admin() -> None:
    """Help on the host itself."""


@app.command()
def reset(
    *,
    user: Annotated[str, typer.Option(metavar="NAME", help="Administrator to create, or to give a password.")] = ADMIN,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Data folder of mcpctl up (default: the user's own).")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Give a lost administrator a new password, while mcpctl up runs on this host.

    It needs no login: who may write the data folder may do it. The user is created where there is none, becomes a
    member of the group admins, and can log in afterwards.

    \b
    Examples:
      mcpctl admin reset
      mcpctl admin reset --user ann --data /srv/mcpctl --password-stdin < password-file
    """  # noqa: D301 - \b keeps the examples' lines apart
    folder = DataFolder(data or user_data_path("mcpctl"))
    folder.look()
    port = folder.remembered_port("nats_port")
    if not folder.in_use or port is None:
        raise CliError(f"no mcpctl up runs on {folder.path}: start it, then repeat this beside it", UNAVAILABLE)
    if not folder.has_admin:
        raise CliError(f"{folder.path} has no administrator yet: mcpctl up makes one at its first start")
    password = ask_password(from_stdin=password_stdin, repeat=True)
    context = Context(f"nats://127.0.0.1:{port}")
    _reset(context, FirstUser(folder).secret_file, user, password)
    say(f"{user} is an administrator with the new password; log in with")
    say(f"  {_login(folder, context, user)}")


@app.command()
def bootstrap(
    *,
    secret_file: Annotated[
        Path, typer.Option("--secret-file", metavar="FILE", help="The secret that the token actors were given.")
    ],
    user: Annotated[str, typer.Option(metavar="NAME", help="The administrator to create.")] = ADMIN,
    nats_url: Annotated[str | None, typer.Option(metavar="URL", help="The bus (default: $MCPCTL_NATS_URL).")] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="PEM file with the CAs of the bus.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """Make the first administrator of a deployment; mcpctl up does that by itself.

    The secret is any text in the file that MCPCTL_BOOTSTRAP_FILE names to the token actors. It works once, and for 15
    minutes after it was written.

    \b
    Examples:
      mcpctl admin bootstrap --secret-file secrets/bootstrap --nats-url tls://bus.example.org:4222 --ca ca.pem
      mcpctl admin bootstrap --secret-file secrets/bootstrap --user ann --password-stdin < password-file
    """  # noqa: D301 - \b keeps the examples' lines apart
    try:
        secret = secret_file.read_text().strip()
    except OSError as error:
        raise CliError(f"cannot read {secret_file}: {error.strerror}") from error
    known = with_environment(Context())
    context = replace(known, nats_url=nats_url or known.nats_url, ca=ca or known.ca).checked()
    password = ask_password(from_stdin=password_stdin, repeat=True)
    try:
        asyncio.run(_ask(context, secret, user, password))
    except BusError as error:
        raise explain(error) from error
    where = "".join(f" --{name} {value}" for name, value in (("nats-url", nats_url), ("ca", ca)) if value)
    say(f"{user} is an administrator; log in with")
    say(f"  mcpctl login --user {user}{where}")


def _reset(context: Context, secret_file: Path, user: str, password: str) -> None:
    """Prove by a one-time secret that the data folder can be written. Raises `CliError`."""
    secret = secrets.token_urlsafe(32)
    write_private(secret_file, f"{secret}\n")
    try:
        asyncio.run(_ask(context, secret, user, password))
    except BusError as error:
        raise explain(error) from error
    finally:
        secret_file.unlink(missing_ok=True)


async def _ask(context: Context, secret: str, user: str, password: str) -> None:
    async with anonymous(context) as door:
        await door.ask(token.bootstrap, secret=secret, user=user, password=password)


def _login(folder: DataFolder, context: Context, user: str) -> str:
    config = Config.load()
    name = own_context(config, folder.path)
    if name in config.contexts:
        return f"mcpctl login --user {user} --context {name}"
    return f"mcpctl login --user {user} --nats-url {context.nats_url} --context {name}"
