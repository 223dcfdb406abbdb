"""`login`, `logout` and `auth`: who the CLI acts as, and what that one may do."""

import asyncio
from dataclasses import replace
from typing import Annotated

import typer

from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import BusError, Unauthenticated
from mcpctl.cli.command_groups import Group
from mcpctl.cli.context import Config, Context, with_environment
from mcpctl.cli.errors import REFUSED, NotLoggedIn
from mcpctl.cli.explain import explain
from mcpctl.cli.given import ask_password
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import DataFormat, plain, print_data, say
from mcpctl.cli.resources import NOUNS
from mcpctl.cli.session import anonymous, connected, session
from mcpctl.cli.times import expiry, span

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Show who you are and what you may do.")

FIRST_CONTEXT = "default"
READING = ("get", "list", "describe")
Output = Annotated[DataFormat, typer.Option("-o", "--output", help="How to print the answer.")]


def login(
    *,
    user: Annotated[str, typer.Option(metavar="NAME", help="Who logs in.")],
    nats_url: Annotated[str | None, typer.Option(metavar="URL", help="The bus (default: that of the context).")] = None,
    gateway_url: Annotated[str | None, typer.Option(metavar="URL", help="A gateway, for mcpctl status.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    context: ContextName = None,
) -> None:
    """Log in with a password, and keep the session in a context."""
    config = Config.load()
    name = config.chosen(context) or FIRST_CONTEXT
    wanted = with_environment(config.contexts.get(name, Context()))
    wanted = replace(wanted, nats_url=nats_url or wanted.nats_url, gateway_url=gateway_url or wanted.gateway_url)
    password = ask_password(from_stdin=password_stdin)
    opened = asyncio.run(_log_in(wanted.nats_url, user, password))
    config.contexts[name] = replace(wanted, user=opened.user, bearer=opened.bearer)
    config.current = config.current or name
    config.save()
    say(f'logged in as {opened.user} in context "{name}"; the session ends {expiry(opened.expires_at)}')


async def _log_in(nats_url: str, user: str, password: str) -> token.LoggedIn:
    try:
        async with anonymous(nats_url) as door:
            return await door.ask(token.login, user=user, password=password)
    except BusError as error:
        raise explain(error) from error


def logout(*, context: ContextName = None) -> None:
    """End the login session, here and everywhere."""
    config = Config.load()
    name, found = config.get(context)
    if found.bearer is None:
        say(f'not logged in in context "{name}"')
        return
    asyncio.run(_log_out(found))
    config.contexts[name] = replace(config.contexts[name], bearer=None)
    config.save()
    say(f'logged out of context "{name}"')


async def _log_out(context: Context) -> None:
    try:
        async with connected(context) as opened:
            await opened.ask(token.logout)
    except (Unauthenticated, NotLoggedIn):
        return
    except BusError as error:
        raise explain(error, context.user) from error


@app.command()
def whoami(*, output: Output = DataFormat.TABLE, context: ContextName = None) -> None:
    """Show whose session the CLI uses."""
    principal = asyncio.run(_whoami(context))
    if output is not DataFormat.TABLE:
        print_data(principal, output)
        return
    groups = f", in {', '.join(principal.owner.groups)}" if principal.owner.groups else ""
    left = principal.expires_in_ms
    ends = "" if left is None else f"; the session ends in {span(left / 1000)}"
    say(f"{principal.kind} {principal.name}{groups}{ends}")


async def _whoami(context: str | None) -> token.Principal:
    async with session(context) as opened:
        return await opened.ask(token.whoami)


@app.command("can-i")
def can_i(
    verb: Annotated[
        str, typer.Argument(metavar="VERB", help="view, create, edit, delete, run; or an operation such as logs.")
    ],
    resource: Annotated[
        str | None, typer.Argument(metavar="RESOURCE", help="projects, servers, tools, mcptokens, ...")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them; tools are named SERVER/TOOL.")
    ] = None,
    *,
    project: Project = None,
    output: Output = DataFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Say whether you may do something, and why; exit code 1 for no."""
    verdict = asyncio.run(_check(_question(verb, resource) | {"name": name, "project": project}, context))
    if output is DataFormat.TABLE:
        say(f"{'yes' if verdict.allowed else 'no'}: {plain(verdict.reason)}")
    else:
        print_data(verdict, output)
    if not verdict.allowed:
        raise typer.Exit(REFUSED)


def _question(verb: str, resource: str | None) -> dict[str, str | None]:
    if resource is None:
        return {"action": verb}
    noun = NOUNS.get(resource.lower())
    return {"verb": "view" if verb in READING else verb, "resource": noun.plural if noun else resource}


async def _check(members: dict[str, str | None], context: str | None) -> rbac.Verdict:
    async with session(context) as opened:
        return await opened.ask(rbac.check, **members)
