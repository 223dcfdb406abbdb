"""`mcpctl create NOUN`: one command a noun, since each takes options of its own."""

import asyncio
import shlex
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcpctl.bus.connection import first_fault
from mcpctl.bus.contract import Call
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.contracts.catalog import ProjectSpec, ServerSpec
from mcpctl.bus.contracts.rbac import Binding, Definition
from mcpctl.bus.errors import Forbidden, NotFound
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.given import ask_password, assignments, given_secret
from mcpctl.cli.options import ContextName, Output, Project
from mcpctl.cli.output import Format, TokenFormat, note, print_data, say
from mcpctl.cli.session import checked, session
from mcpctl.cli.times import expiry, parse_lifetime

app = typer.Typer(cls=NounGroup, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the new resource.")]
Description = Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="Group to be a member of; repeatable.")
]
Ttl = Annotated[str, typer.Option(metavar="TIME", help="How long it works: 30d, 12h, ... or never.")]
TokenOutput = Annotated[TokenFormat, typer.Option("-o", "--output", help="How to print it; `token`: the bearer alone.")]


@app.command()
def project(
    name: Name,
    servers: Annotated[
        list[str] | None, typer.Option("--server", metavar="SERVER", help="Server that it offers; repeatable.")
    ] = None,
    description: Description = "",
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a project: the servers that its tokens may be given."""
    spec = checked(ProjectSpec, name=name, description=description, servers=tuple(servers or ()))
    _create(catalog.create_project, "project", name, output, context, spec=spec)


@app.command()
def server(
    name: Name,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Streamable HTTP endpoint of the server.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Header to send; NAME=secret:REF takes a secret. Repeatable."),
    ] = None,
    command: Annotated[str | None, typer.Option(metavar="'CMD ARGS'", help="Command that speaks MCP on stdio.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Variable to set; NAME=secret:REF takes a secret. Repeatable."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Stands before its tools' names (default: NAME).")
    ] = None,
    description: Description = "",
    projects: Annotated[
        list[str] | None, typer.Option("-p", "--project", metavar="PROJECT", help="Project to add it to; repeatable.")
    ] = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Define an upstream MCP server, reached by URL or started by command."""
    if (url is None) == (command is None):
        raise CliError("a server has either --url or --command", USAGE)
    spec = checked(
        ServerSpec,
        name=name,
        description=description,
        url=url,
        headers=assignments(header, "--header"),
        command=_words(command),
        env=assignments(env, "--env"),
        prefix=prefix,
    )
    _create(catalog.create_server, "server", name, output, context, spec=spec, projects=tuple(projects or ()))


@app.command()
def secret(
    name: Name,
    *,
    from_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File that holds the value (default: stdin).")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the value of one that is there.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Seal a value under a name, for servers to use; it is read from stdin and never shown again."""
    value = given_secret(from_file)
    if not value:
        raise CliError("the value is empty", USAGE)
    _create(catalog.create_secret, "secret", name, output, context, value=value, replace=replace)


@app.command()
def user(
    name: Name,
    *,
    groups: Groups = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a user who logs in with a password."""
    password = ask_password(from_stdin=password_stdin, repeat=True)
    _create(token.create_user, "user", name, output, context, password=password, groups=tuple(groups or ()))


@app.command()
def serviceaccount(
    name: Name,
    groups: Groups = None,
    description: Description = "",
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a service account: an owner of bearers that is no person."""
    members = {"groups": tuple(groups or ()), "description": description}
    _create(token.create_service_account, "serviceaccount", name, output, context, **members)


@app.command("rbac")
def definition(
    name: Name,
    subjects: Annotated[
        list[str], typer.Option("--subject", metavar="KIND:NAME", help="User:ann, Group:devs, ...; repeatable.")
    ],
    bindings: Annotated[
        list[str],
        typer.Option(
            "--roleBindings",
            "--binding",
            metavar="BINDING",
            help="role:view,resource:servers[,name:GLOB] or action:logs; repeatable.",
        ),
    ],
    project: Project = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Grant roles to subjects, in one project (-p) or in all."""
    granted = checked(
        Definition, name=name, project=project, subjects=tuple(subjects), bindings=parse_bindings(bindings)
    )
    _create(rbac.define, "rbac", name, output, context, definition=granted)


@app.command()
def mcptoken(
    name: Name,
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project that it is for.")],
    bind: Annotated[
        list[str] | None,
        typer.Option(metavar="BINDING", help="What it may do: role:run,resource:tools[,name:GLOB]; repeatable."),
    ] = None,
    ttl: Ttl = "30d",
    description: Description = "",
    output: TokenOutput = TokenFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Issue an mcptoken for one project; its bearer is shown once."""
    members = {
        "project": project,
        "name": name,
        "bindings": parse_bindings(bind or ()),
        "ttl_seconds": parse_lifetime(ttl),
        "description": description,
    }
    issued = asyncio.run(_issue(members, context))
    told = f'mcptoken "{name}" of project "{project}"'
    _print_bearer(issued, output, f"mcptoken/{name}", told, issued.token.expires_at)
    if not bind and output is TokenFormat.TABLE:
        note("It may do nothing yet: bind it at its creation, for example --bind role:run,resource:servers")


@app.command("serviceaccount-token")
def serviceaccount_token(
    name: Annotated[str, typer.Argument(metavar="SERVICEACCOUNT", help="Service account that it stands for.")],
    ttl: Ttl = "30d",
    output: TokenOutput = TokenFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Issue a bearer of a service account; it is shown once."""
    members = {"name": name, "ttl_seconds": parse_lifetime(ttl)}
    issued = asyncio.run(_ask(token.issue_service_account_token, context, members))
    _print_bearer(issued, output, f"serviceaccount/{name}", f'token of service account "{name}"', issued.expires_at)


def parse_bindings(texts: Iterable[str]) -> tuple[Binding, ...]:
    """Read bindings. Raises `CliError` for one that is none."""
    try:
        return tuple(Binding.parse(text) for text in texts)
    except ValueError as error:
        raise CliError(f"binding: {_fault(error)}", USAGE) from error


def _fault(error: ValueError) -> str:
    return humane(first_fault(error)) if isinstance(error, ValidationError) else str(error)


def _words(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command or ""))
    except ValueError as error:
        raise CliError(f"--command is not a command line: {str(error).lower()}", USAGE) from error


def _create(call: Call[Any, Any], noun: str, name: str, output: Format, context: str | None, /, **members: Any) -> None:
    created = asyncio.run(_ask(call, context, {"name": name, **members}))
    if output is Format.NAME:
        say(f"{noun}/{name}")
    elif output is Format.TABLE:
        say(f'{noun} "{name}" created')
    else:
        print_data(created, output)


async def _ask(call: Call[Any, Any], context: str | None, members: dict[str, Any]) -> Any:
    async with session(context) as opened:
        return await opened.ask(call, **members)


async def _issue(members: dict[str, Any], context: str | None) -> token.IssuedToken:
    async with session(context) as opened:
        try:
            await opened.ask(catalog.get_project, name=members["project"])
        except NotFound as error:
            raise CliError(f'project "{members["project"]}" not found') from error
        except Forbidden:
            pass  # who may issue tokens need not be able to see the project
        return await opened.ask(token.issue, **members)


def _print_bearer(issued: Any, output: TokenFormat, name: str, told: str, expires_at: datetime | None) -> None:
    if output is TokenFormat.TOKEN:
        say(issued.bearer)
    elif output is TokenFormat.NAME:
        say(name)
    elif output is TokenFormat.TABLE:
        expires = (
            "never expires"
            if expires_at is None
            else f"expires {expiry(expires_at)} ({expires_at.astimezone():%Y-%m-%d})"
        )
        say(f"{told} created; it {expires}.")
        say("This is its bearer, shown only now:")
        say(issued.bearer)
    else:
        print_data(issued, output)
