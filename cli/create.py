"""`mcpctl create NOUN`: one command a noun, since each takes options of its own."""

import asyncio
import shlex
from typing import Annotated

import typer

from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.contracts.catalog import GateSpec, ProjectSpec, ServerSpec
from mcpctl.bus.contracts.rbac import Definition
from mcpctl.cli.bindings import as_token_ids, parse_bindings, refuse_old_forms, with_token_ids
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.create_prompt import prompt
from mcpctl.cli.create_token import mcptoken, serviceaccount_token
from mcpctl.cli.creating import create_one, print_created
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.given import ask_password, assignments, given_secret
from mcpctl.cli.labels import parse_labels
from mcpctl.cli.mcp_servers import refuse_secret
from mcpctl.cli.options import (
    ContextName,
    Description,
    GateForm,
    LabelOption,
    NamingForm,
    NewName,
    OldBindings,
    OldOperations,
    Output,
    Project,
)
from mcpctl.cli.output import Format
from mcpctl.cli.quotas import Burst, ConcurrentCalls, RequestsPerSecond, Streams, quota_of
from mcpctl.cli.session import checked, session

app = typer.Typer(cls=NounGroup, rich_markup_mode=None, add_completion=False)

Plain = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Variable or header that is no secret; repeatable."),
]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="Group to be a member of; repeatable.")
]


@app.command()
def project(
    name: NewName,
    *,
    servers: Annotated[
        list[str] | None, typer.Option("--server", metavar="SERVER", help="Server that it offers; repeatable.")
    ] = None,
    description: Description = "",
    naming: Annotated[
        NamingForm | None,
        typer.Option(help="Its tools' names: plain, or PREFIX__TOOL (default: prefix where it has several servers)."),
    ] = None,
    max_token_ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="The longest that its mcptokens may last: 90d, 12h.")
    ] = None,
    gate: Annotated[
        GateForm | None,
        typer.Option(help="Brief agents before they act: a call gets the briefing with its result, or is refused."),
    ] = None,
    pin_tools: Annotated[
        bool, typer.Option("--pin-tools/--no-pin-tools", help="Keep back tools that their servers change.")
    ] = True,
    requests_per_second: RequestsPerSecond = None,
    burst: Burst = None,
    concurrent_calls: ConcurrentCalls = None,
    streams: Streams = None,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a project: the servers that its tokens may be given.

    \b
    Examples:
      mcpctl create project demo --server time --server git
      mcpctl create project growing --server time --naming prefix
      mcpctl create project shop --max-token-ttl 90d --label team=shop
      mcpctl create project careful --server git --gate brief
      mcpctl create project busy --requests-per-second 50 --burst 100 --concurrent-calls 20 --streams 10
    """  # noqa: D301 - \b keeps the examples' lines apart
    spec = checked(
        ProjectSpec,
        name=name,
        labels=parse_labels(labels),
        description=description,
        servers=tuple(servers or ()),
        naming=naming,
        max_token_ttl=max_token_ttl,
        gate=None if gate is None else GateSpec(mode=gate.value),
        pin_tools=pin_tools,
        quota=quota_of(requests_per_second, burst, concurrent_calls, streams),
    )
    create_one(catalog.create_project, "project", name, output, context, spec=spec)


@app.command()
def server(
    name: NewName,
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
        str | None, typer.Option(metavar="PREFIX", help="Stands before its tools' names: PREFIX__TOOL (default: NAME).")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(metavar="SITE", help="Site whose routers reach it (default: those beside the bus).")
    ] = None,
    description: Description = "",
    projects: Annotated[
        list[str] | None, typer.Option("-p", "--project", metavar="PROJECT", help="Project to add it to; repeatable.")
    ] = None,
    plain: Plain = None,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Define an upstream MCP server, reached by URL or started by command.

    \b
    Examples:
      mcpctl create server weather --url https://mcp.example.com/mcp -p demo
      mcpctl create server weather --url https://mcp.example.com/mcp --header Authorization=secret:weather
      mcpctl create server git --command 'uvx mcp-server-git' --env GIT_DIR=/srv/repo
      mcpctl create server scope --url http://10.7.0.5:8000/mcp --placement lab
    """  # noqa: D301 - \b keeps the examples' lines apart
    if (url is None) == (command is None):
        raise CliError("a server has either --url or --command", USAGE)
    spec = checked(
        ServerSpec,
        name=name,
        labels=parse_labels(labels),
        description=description,
        url=url,
        headers=assignments(header, "--header"),
        command=_words(command),
        env=assignments(env, "--env"),
        prefix=prefix,
        placement=placement,
    )
    refuse_secret(spec, plain or ())
    create_one(catalog.create_server, "server", name, output, context, spec=spec, projects=tuple(projects or ()))


@app.command()
def secret(
    name: NewName,
    *,
    from_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File that holds the value (default: stdin).")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the value of one that is there.")] = False,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Seal a value under a name, for servers to use; it is read from stdin and never shown again.

    \b
    Examples:
      mcpctl create secret weather < key.txt
      mcpctl create secret weather --from-file key.txt --replace
    """  # noqa: D301 - \b keeps the examples' lines apart
    value = given_secret(from_file)
    if not value:
        raise CliError("the value is empty", USAGE)
    members = {"value": value, "replace": replace, "labels": parse_labels(labels)}
    create_one(catalog.create_secret, "secret", name, output, context, **members)


@app.command()
def user(
    name: NewName,
    *,
    groups: Groups = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a user who logs in with a password.

    \b
    Examples:
      mcpctl create user ann --group devs
      mcpctl create user ann@example.org --password-stdin < password.txt
    """  # noqa: D301 - \b keeps the examples' lines apart
    members = {"groups": tuple(groups or ()), "labels": parse_labels(labels)}
    password = ask_password(from_stdin=password_stdin, repeat=True)
    create_one(token.create_user, "user", name, output, context, password=password, **members)


@app.command()
def group(
    name: NewName,
    members: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="KIND:NAME", help="User:ann, ServiceAccount:ci or Group:devs; repeatable."),
    ] = None,
    groups: Groups = None,
    description: Description = "",
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a group, to which rights are given once for all its members.

    \b
    Examples:
      mcpctl create group devs --member User:ann --member User:bob
      mcpctl create group backend --group devs --description 'Who builds the backend'
    """  # noqa: D301 - \b keeps the examples' lines apart
    for member in members or ():
        demand_member("--member", member)
    given = {"members": tuple(members or ()), "groups": tuple(groups or ()), "description": description}
    create_one(token.create_group, "group", name, output, context, labels=parse_labels(labels), **given)


@app.command()
def serviceaccount(
    name: NewName,
    groups: Groups = None,
    description: Description = "",
    router_site: Annotated[
        str | None, typer.Option(metavar="SITE", help="Its bearers admit routers of this site, and nothing else.")
    ] = None,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Create a service account: an owner of bearers that is no person.

    \b
    Examples:
      mcpctl create serviceaccount build --group robots --description 'The build farm'
      mcpctl create serviceaccount lab-router --router-site lab
    """  # noqa: D301 - \b keeps the examples' lines apart
    given = {"groups": tuple(groups or ()), "description": description, "labels": parse_labels(labels)}
    create_one(token.create_service_account, "serviceaccount", name, output, context, router_site=router_site, **given)


@app.command("rbac")
def definition(
    name: NewName,
    subjects: Annotated[
        list[str],
        typer.Option("--subject", metavar="KIND:NAME", help="User:ann, Group:devs, McpToken:ci, ...; repeatable."),
    ],
    bindings: Annotated[
        list[str] | None,
        typer.Option(
            "--roleBindings",
            metavar="BINDING",
            help="role:view,resource:servers[,name:GLOB] or action:logs; repeatable.",
        ),
    ] = None,
    project: Project = None,
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
    old_bindings: OldBindings = None,
    old_operations: OldOperations = None,
) -> None:
    """Grant roles to subjects, in one project (-p) or in all.

    \b
    Examples:
      mcpctl create rbac devs --subject Group:devs --roleBindings role:view,resource:servers
      mcpctl create rbac ha --subject User:ann --roleBindings role:view,resource:servers,name:my-ha -p home
      mcpctl create rbac support --subject User:ann --roleBindings action:logs
      mcpctl create rbac ci --subject McpToken:ci -p demo --roleBindings 'role:run,resource:tools,name:git/*'
    """  # noqa: D301 - \b keeps the examples' lines apart
    refuse_old_forms("--roleBindings", old_bindings, old_operations)
    if not bindings:
        raise CliError("say what it grants: --roleBindings role:view,resource:servers", USAGE)
    granted = checked(
        Definition,
        name=name,
        labels=parse_labels(labels),
        project=project,
        subjects=as_token_ids(subjects),
        bindings=parse_bindings(bindings),
    )
    defined = asyncio.run(_define(granted, subjects, context))
    print_created("rbac", name, defined, output)


async def _define(granted: Definition, subjects: list[str], context: str | None) -> Definition:
    async with session(context) as opened:
        named = await with_token_ids(opened, subjects, granted.project)
        return await opened.ask(rbac.define, definition=granted.model_copy(update={"subjects": named}))


def demand_member(option: str, member: str) -> None:
    """Raise `CliError` for a member without its kind."""
    if member.partition(":")[0] not in MEMBER_KINDS or member.endswith(":"):
        name = member.rpartition(":")[2] or "NAME"
        forms = ", ".join(f"{kind}:{name}" for kind in MEMBER_KINDS)
        raise CliError(f"{option} {member}: say of which kind it is ({forms})", USAGE)


MEMBER_KINDS = ("User", "ServiceAccount", "Group")


def _words(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command or ""))
    except ValueError as error:
        raise CliError(f"--command is not a command line: {str(error).lower()}", USAGE) from error


app.command()(prompt)
app.command()(mcptoken)
app.command("serviceaccounttoken")(serviceaccount_token)
app.command("serviceaccount-token", hidden=True)(serviceaccount_token)
