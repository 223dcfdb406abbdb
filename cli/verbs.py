"""`describe`, `delete` and `revoke`: the same for every noun of the table."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from mcpctl.bus.context import committing
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.errors import BusError, NotFound
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import (
    Wanted,
    chosen,
    demand_project,
    demand_there,
    each,
    end,
    find_items,
    not_found,
    nothing,
    parse_selector,
    targets,
)
from mcpctl.cli.listing import details
from mcpctl.cli.options import ContextName, LabelSelector, NameOption, Names, Noun, Project
from mcpctl.cli.output import note, print_details, say
from mcpctl.cli.receipts import confirm
from mcpctl.cli.resources import PAST, canonical
from mcpctl.cli.session import Session, session
from mcpctl.cli.usage import report_on

CONFIRMED = frozenset({"project", "server", "mcptoken", "user", "group", "serviceaccount", "rbac"})
"""What agents may be using: that all replicas know of its end is told."""

ACCOUNT_TOKEN = ("serviceaccounttoken", "serviceaccount-token")


def describe(
    noun: Noun,
    names: NameOption = None,
    project: Project = None,
    selector: LabelSelector = None,
    context: ContextName = None,
) -> None:
    """Show all there is to know about resources.

    \b
    Examples:
      mcpctl describe server time
      mcpctl describe mcptoken ci -p demo
      mcpctl describe projects -l team=shop
      mcpctl describe tool github/create_issue
    """  # noqa: D301 - \b keeps the examples' lines apart
    if canonical(noun.partition("/")[0]) == "tool":
        from mcpctl.cli.pins import describe_tools  # noqa: PLC0415 - of tools alone

        asyncio.run(describe_tools([noun, *(names or ())] if "/" in noun else names or (), context))
        return
    resource, found = targets(noun, names or ())
    if found:
        demand_project(resource, project)
    asyncio.run(_describe(Wanted(resource, tuple(found), project, parse_selector(selector, names)), context))


def delete(
    noun: Noun,
    names: Names = None,
    *,
    project: Project = None,
    selector: LabelSelector = None,
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="What is not there counts as deleted.")
    ] = False,
    context: ContextName = None,
) -> None:
    """Delete resources, without asking again.

    \b
    Examples:
      mcpctl delete server time git
      mcpctl delete mcptoken ci -p demo
      mcpctl delete projects -l team=shop
      mcpctl delete server/time --ignore-not-found
    """  # noqa: D301 - \b keeps the examples' lines apart
    wanted = named(noun, names, project, selector)
    asyncio.run(change(wanted, "delete", context, forgiving=ignore_not_found))


def revoke(
    noun: Noun,
    names: Names = None,
    project: Project = None,
    selector: LabelSelector = None,
    *,
    report: Annotated[bool, typer.Option("--report", help="Then sum up what they did: tools, outcomes, when.")] = False,
    context: ContextName = None,
) -> None:
    """Revoke mcptokens: they work no more and stay listed. Or one bearer of a service account, by its id.

    \b
    Examples:
      mcpctl revoke mcptoken ci -p demo
      mcpctl revoke mcptokens -p demo -l team=shop
      mcpctl revoke mcptoken ci -p demo --report
      mcpctl revoke serviceaccounttoken build ID
    """  # noqa: D301 - \b keeps the examples' lines apart
    if noun in ACCOUNT_TOKEN:
        asyncio.run(_revoke_account_token(names or (), context))
        return
    wanted = named(noun, names, project, selector)
    if report:
        if not wanted.names or wanted.resource.name != "mcptoken":
            raise CliError("--report is about mcptokens that are named", USAGE)
        demand_project(wanted.resource, project)
    try:
        asyncio.run(change(wanted, "revoke", context))
    finally:
        if report:  # whatever became of the revocation
            report_on(wanted.names, project, context)


async def _revoke_account_token(words: Sequence[str], context: str | None) -> None:
    """End a bearer of a service account. Raises `CliError` where account or id is missing."""
    if len(words) != 2:
        raise CliError(
            "name the service account and the id of its bearer: mcpctl revoke serviceaccounttoken NAME ID", USAGE
        )
    name, sha = words
    async with session(context) as opened:
        with committing() as committed:
            await opened.ask(token.revoke_service_account_token, name=name, id=sha)
        say(f'token of service account "{name}" revoked')
        await confirm(opened, committed)


def named(noun: str, names: Sequence[str] | None, project: str | None, selector: str | None) -> Wanted:
    """Read what must be named, or chosen by its labels. Raises `CliError` where it is neither."""
    resource, found = targets(noun, names or ())
    if not found and selector is None:
        raise CliError(f"name the {resource.plural} that you mean, or choose them with -l", USAGE)
    return Wanted(resource, tuple(found), project, parse_selector(selector, found))


async def _describe(wanted: Wanted, context: str | None) -> None:
    resource = wanted.resource
    async with session(context) as opened:
        items, failures = await find_items(opened, wanted)
        for number, item in enumerate(items):
            if number:
                say("")
            print_details(await details(opened, resource, item))
        if not items and not failures:
            note(nothing(wanted))
    end(failures)


async def change(wanted: Wanted, verb: str, context: str | None, *, forgiving: bool = False) -> None:
    """Do it to each; one that fails does not keep the others from it."""
    resource = wanted.resource
    call = resource.call(verb)
    if wanted.names:
        demand_project(resource, wanted.project)

    async def change_one(opened: Session, name: str, project: str | None) -> None:
        held = await _projects_with(opened, name) if (verb, resource.name) == ("delete", "server") else ()
        try:
            with committing() as committed:
                await opened.ask(call, name=name, project=project)
        except NotFound as error:
            if not forgiving:
                raise not_found(resource, name, project) from error
            return
        say(f'{resource.name} "{name}" {PAST[verb]}')
        if held:
            note(f"It was in {'project' if len(held) == 1 else 'projects'} {', '.join(held)}.")
        if resource.name in CONFIRMED:
            await confirm(opened, committed)

    async with session(context) as opened:
        if wanted.names:
            meant = [(name, wanted.project) for name in wanted.names]
        else:
            meant = await _matching(opened, wanted, verb)
            if not meant:
                await demand_there(opened, wanted.project)
                note(nothing(wanted))
        _, failures = await each(opened, meant, lambda pair: change_one(opened, *pair))
    end(failures)


async def _projects_with(opened: Session, server: str) -> Sequence[str]:
    """Return the projects that lose a server, as far as the asker may know."""
    try:
        found: Sequence[str] = (await opened.ask(catalog.get_server, name=server)).projects
    except BusError:
        return ()
    return found


async def _matching(opened: Session, wanted: Wanted, verb: str) -> list[tuple[str, str | None]]:
    """Return name and project of what the labels choose, each once; what is revoked is not revoked again."""
    items = await chosen(opened, wanted)
    resource = wanted.resource
    if verb == "revoke":
        items = [item for item in items if item.status == "active"]
    return list(dict.fromkeys((resource.key(i), i.project if resource.in_project else None) for i in items))
