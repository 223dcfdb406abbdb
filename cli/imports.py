"""`mcpctl import`: a backup, or the servers of an MCP client's configuration."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer

from mcpctl.bus.contract import Outcome
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import NotFound
from mcpctl.cli.backup import import_backup
from mcpctl.cli.command_groups import Group
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.given import read_text
from mcpctl.cli.mcp_servers import Taken, take
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, say
from mcpctl.cli.session import Session, session


class ImportGroup(Group):
    """A group of which `import FILE` is short for `import backup FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.list_commands(ctx):
            args = ["backup", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=ImportGroup, rich_markup_mode=None)


@app.callback()
def _import() -> None:
    """Restore a backup, or take the servers of an MCP client over.

    \b
    Examples:
      mcpctl import backup.json
      mcpctl import mcpservers ~/.cursor/mcp.json -p demo
    """  # noqa: D301 - \b keeps the examples' lines apart


app.command("backup")(import_backup)


@app.command()
def mcpservers(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The client's JSON with mcpServers; - reads stdin.")],
    *,
    project: Annotated[
        str | None, typer.Option("-p", "--project", metavar="PROJECT", help="Project to add the servers to.")
    ] = None,
    create_project: Annotated[
        bool, typer.Option("--create-project", help="Create the project where it is missing.")
    ] = False,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Put this before the names of the servers.")] = "",
    in_clear: Annotated[
        list[str] | None,
        typer.Option("--plain", metavar="NAME", help="Variable or header that is no secret; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    context: ContextName = None,
) -> None:
    """Take over the servers that an MCP client has configured: all of them, or none.

    Headers and variables that look like secrets, by their names or their values, are sealed; --plain names exceptions.

    \b
    Examples:
      mcpctl import mcpservers ~/.cursor/mcp.json -p demo --dry-run
      mcpctl import mcpservers claude_desktop_config.json -p demo --create-project
      mcpctl import mcpservers .vscode/mcp.json --prefix team- --plain PUBLIC_KEY
    """  # noqa: D301 - \b keeps the examples' lines apart
    text = sys.stdin.read() if file == "-" else read_text(file)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CliError(f"{file}: no valid JSON ({error})", USAGE) from error
    taken = take(data, file, prefix=prefix, plain=in_clear or ())
    asyncio.run(_take_over(taken, project, context, create_project=create_project, dry_run=dry_run))


async def _take_over(
    taken: Taken, project: str | None, context: str | None, *, create_project: bool, dry_run: bool
) -> None:
    async with session(context) as opened:
        projects = [] if project is None else [await _with_servers(opened, project, taken, create=create_project)]
        await _demand_new(opened, taken)
        members = {"servers": tuple(taken.servers), "secrets": tuple(taken.secrets), "projects": tuple(projects)}
        await opened.ask(catalog.apply, **members, dry_run=True)
        done = await opened.ask(catalog.apply, **members, dry_run=dry_run)
    for original, name in taken.renamed.items():
        note(f"{original} is called {name} here.")
    for what in taken.left_out:
        note(f"Left out, since it has no counterpart here: {what}")
    for what in taken.in_clear:
        note(f"Not sealed, and shown to all who may see the server: what looks like a secret in {what}")
    for item in done.items:
        say(_line(item) + (" (dry run)" if dry_run else ""))


async def _with_servers(opened: Session, project: str, taken: Taken, *, create: bool) -> catalog.ProjectSpec:
    added = tuple(server.name for server in taken.servers)
    try:
        spec = (await opened.ask(catalog.get_project, name=project)).spec
    except NotFound as error:
        if not create:
            raise CliError(f'project "{project}" not found: create it, or add --create-project') from error
        return catalog.ProjectSpec(name=project, servers=added)
    return spec.model_copy(update={"servers": (*spec.servers, *(name for name in added if name not in spec.servers))})


async def _demand_new(opened: Session, taken: Taken) -> None:
    """Raise `CliError` where a server or secret of that name is there already: it is not to be overwritten."""
    servers = {server.spec.name for server in (await opened.ask(catalog.list_servers)).items}
    secrets = {secret.name for secret in (await opened.ask(catalog.list_secrets)).items} if taken.secrets else set()
    there = [f"server {server.name}" for server in taken.servers if server.name in servers]
    there += [f"secret {secret.name}" for secret in taken.secrets if secret.name in secrets]
    if there:
        raise CliError(f"there is already: {', '.join(there)}; delete it, or rename the server in the file")


def _line(item: Outcome) -> str:
    return f"{item.ref.kind}/{item.ref.name} {item.action}"
