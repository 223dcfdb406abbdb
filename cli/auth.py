"""`login`, `logout` and `auth`: who the CLI acts as, and what that one may do."""

import asyncio
import os
from dataclasses import replace
from typing import Annotated, Any, get_args

import typer

from mcpctl.bus.bearer import kind_of
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import BusError, Unauthenticated
from mcpctl.cli.command_groups import Group
from mcpctl.cli.completion import resource_nouns
from mcpctl.cli.context import ENVIRONMENT, Config, Context, with_environment
from mcpctl.cli.errors import REFUSED, USAGE, CliError, NotLoggedIn
from mcpctl.cli.explain import explain
from mcpctl.cli.given import ask_password, json_object
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import DataFormat, note, plain, print_data, print_table, say
from mcpctl.cli.resources import NOUNS
from mcpctl.cli.session import anonymous, connected, session
from mcpctl.cli.times import expiry, span

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False, help="Show who you are and what you may do.")

FIRST_CONTEXT = "default"
READING = ("get", "list", "describe")
OPERATIONS = get_args(rbac.Operation)
SUBJECTS = {
    "user": "User",
    "serviceaccount": "ServiceAccount",
    "sa": "ServiceAccount",
    "mcptoken": "McpToken",
    "token": "McpToken",
}
Output = Annotated[DataFormat, typer.Option("-o", "--output", help="How to print the answer.")]


def login(
    *,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who logs in (default: whose context it is).")
    ] = None,
    nats_url: Annotated[str | None, typer.Option(metavar="URL", help="The bus (default: that of the context).")] = None,
    gateway_url: Annotated[str | None, typer.Option(metavar="URL", help="A gateway, for mcpctl status.")] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="PEM file with the CAs of the bus.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    context: ContextName = None,
) -> None:
    """Log in with a password, and keep the session in a context.

    \b
    Examples:
      mcpctl login --user ann
      mcpctl login --user ann --nats-url tls://bus.example.org:4222 --context work
      mcpctl login --user admin --password-stdin < password-file
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    name = config.chosen(context) or FIRST_CONTEXT
    known = with_environment(config.contexts.get(name, Context()))
    wanted = replace(
        known,
        nats_url=nats_url or known.nats_url,
        gateway_url=gateway_url or known.gateway_url,
        ca=ca or known.ca,
        user=user or known.user,
    ).checked()
    if wanted.user is None:
        raise CliError("say who logs in: --user NAME", USAGE)
    password = ask_password(from_stdin=password_stdin)
    opened = asyncio.run(_log_in(wanted, wanted.user, password))
    config.contexts[name] = replace(wanted, user=opened.user, bearer=opened.bearer)
    config.current = config.current or name
    config.save()
    say(f'logged in as {opened.user} in context "{name}"; the session ends {expiry(opened.expires_at)}')
    if source := config.get(name)[1].source:
        note(f"{source} goes before this session: unset it to act as {opened.user}")


async def _log_in(context: Context, user: str, password: str) -> token.LoggedIn:
    try:
        async with anonymous(context) as door:
            return await door.ask(token.login, user=user, password=password)
    except BusError as error:
        raise explain(error) from error


def logout(*, context: ContextName = None) -> None:
    """End the login session, here and everywhere.

    \b
    Examples:
      mcpctl logout
      mcpctl logout --context work
    """  # noqa: D301 - \b keeps the examples' lines apart
    config = Config.load()
    name, found = config.stored(context)
    if found.bearer is None:
        say(f'not logged in in context "{name}"')
        return
    asyncio.run(_log_out(found))
    if name != ENVIRONMENT:
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
    """Show whose session, or whose bearer, the CLI uses.

    \b
    Examples:
      mcpctl auth whoami
      mcpctl auth whoami -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    principal = asyncio.run(_whoami(context))
    if output is not DataFormat.TABLE:
        print_data(principal, output)
        return
    groups = f", in {', '.join(principal.owner.groups)}" if principal.owner.groups else ""
    left = principal.expires_in_ms
    what = "session" if principal.kind == "User" else "bearer"
    ends = "" if left is None else f"; the {what} ends in {span(left / 1000)}"
    say(f"{principal.kind} {principal.name}{groups}{ends}")
    if kind_of(os.environ.get("MCPCTL_TOKEN", "").strip()) == "pat":
        note("$MCPCTL_TOKEN holds an mcptoken: test mcp and call use it, the other commands this login session")


async def _whoami(context: str | None) -> token.Principal:
    async with session(context) as opened:
        return await opened.ask(token.whoami)


@app.command("can-i")
def can_i(
    verb: Annotated[
        str | None,
        typer.Argument(metavar="VERB", help="view, create, edit, delete, run; or an operation such as logs."),
    ] = None,
    resource: Annotated[
        str | None,
        typer.Argument(
            metavar="RESOURCE", help="projects, servers, tools, mcptokens, ...", autocompletion=resource_nouns
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them; tools are named SERVER/TOOL.")
    ] = None,
    *,
    project: Project = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="KIND:NAME", help="Ask for user:ann, mcptoken:ci (with -p) or serviceaccount:build."
        ),
    ] = None,
    args: Annotated[
        str | None, typer.Option("--args", metavar="JSON", help="Arguments of the tool call that is asked about.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing: the exit code is the answer.")] = False,
    everything: Annotated[bool, typer.Option("--list", help="List what you may do in a project.")] = False,
    output: Output = DataFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Say whether you, or another, may do something, and why. Exit code 0: yes; 1: no.

    \b
    Examples:
      mcpctl auth can-i edit servers -p demo
      mcpctl auth can-i run tools github/create_issue --as mcptoken:ci -p demo
      mcpctl auth can-i run tools time/get_current_time -p demo --args '{"timezone": "UTC"}'
      mcpctl auth can-i logs --as user:ann
      mcpctl auth can-i --list -p demo
    """  # noqa: D301 - \b keeps the examples' lines apart
    if everything:
        _list_rights((verb, resource, name, subject, args), project, output, context)
        return
    if verb is None:
        raise CliError("say what to ask about: mcpctl auth can-i VERB RESOURCE [NAME], or --list", USAGE)
    members = _question(verb, resource, name) | {"project": project, "subject": _subject(subject)}
    if args is not None:
        members["arguments"] = json_object(args, "--args")
    verdict = asyncio.run(_check(members, context))
    if not quiet and output is DataFormat.TABLE:
        say("yes" if verdict.allowed else "no")
        say(plain(verdict.reason))
    elif not quiet:
        print_data(verdict, output)
    if not verdict.allowed:
        raise typer.Exit(REFUSED)


def _question(verb: str, resource: str | None, name: str | None) -> dict[str, Any]:
    """Return what is asked: an operation (`logs`, `run logs`), or a verb on a resource (`get server/time`)."""
    if resource is None:
        return {"action": verb}
    if resource in OPERATIONS and resource not in (*NOUNS, "*"):
        if verb != "run" or name is not None:
            raise CliError(f"{resource} is an operation: ask mcpctl auth can-i {resource}", USAGE)
        return {"action": resource}
    kind, slash, part = resource.partition("/")
    if slash and name is None:
        resource, name = kind, part
    noun = NOUNS.get(resource.lower())
    return {"verb": "view" if verb in READING else verb, "resource": noun.plural if noun else resource, "name": name}


def _subject(text: str | None) -> str | None:
    """Return the contract's form of `--as`: `User:ann`. Raises `CliError`."""
    if text is None:
        return None
    kind, _, name = text.partition(":")
    if kind.lower() not in SUBJECTS or not name:
        raise CliError("--as takes user:NAME, serviceaccount:NAME or mcptoken:NAME", USAGE)
    return f"{SUBJECTS[kind.lower()]}:{name}"


async def _check(members: dict[str, Any], context: str | None) -> rbac.Verdict:
    async with session(context) as opened:
        return await opened.ask(rbac.check, **members)


def _list_rights(others: tuple[str | None, ...], project: str | None, output: DataFormat, context: str | None) -> None:
    if any(other is not None for other in others):
        raise CliError(
            "--list shows what you hold yourself: it takes -p alone (of others, mcpctl get rbac shows the bindings)",
            USAGE,
        )
    if project is None:
        raise CliError("--list shows rights in a project: add -p PROJECT", USAGE)
    found = asyncio.run(_scope(project, context))
    if output is not DataFormat.TABLE:
        print_data(found.scope, output)
        return
    titles: tuple[str, ...] = ("ROLE", "RESOURCE", "NAME", "OPERATION", "WHEN")
    layered = len(found.scope.layers) > 1
    rows = [
        (*((number,) if layered else ()), b.role, b.resource, b.name, b.action, text.partition(",when:")[2])
        for number, layer in enumerate(found.scope.layers, 1)
        for text, b in {str(binding): binding for binding in layer}.items()
    ]
    if not rows:
        note(f"you hold no rights in project {project}")
        return
    print_table(("LAYER", *titles) if layered else titles, rows)
    if layered:
        note("you may do what each of these layers grants")


async def _scope(project: str, context: str | None) -> rbac.ScopeOf:
    async with session(context) as opened:
        return await opened.ask(rbac.scope, project=project)
