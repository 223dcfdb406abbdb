"""Labels as they are written on the command line, and `mcpctl label`."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import Wanted, each, end, find_items, targets
from mcpctl.cli.options import ContextName, LabelSelector, Noun
from mcpctl.cli.output import note, say
from mcpctl.cli.resources import labels_of
from mcpctl.cli.selectors import Selector
from mcpctl.cli.session import session


def label(
    noun: Noun,
    words: Annotated[
        list[str], typer.Argument(metavar="[NAME]... LABEL...", help="Names, and KEY=VALUE to set or KEY- to remove.")
    ],
    selector: LabelSelector = None,
    context: ContextName = None,
) -> None:
    """Set and remove labels of resources.

    \b
    Examples:
      mcpctl label server time git team=shop
      mcpctl label project demo team=shop old-
      mcpctl label servers -l team=shop tier=web
    """  # noqa: D301 - \b keeps the examples' lines apart
    names = [word for word in words if not _is_change(word)]
    resource, found = targets(noun, names)
    if "label" in resource.instead:
        raise resource.cannot("label")
    if bool(found) == (selector is not None):
        raise CliError(f"name the {resource.plural} that you mean, or choose them with -l", USAGE)
    changes = [word for word in words if _is_change(word)]
    if not changes:
        raise CliError("say which labels: KEY=VALUE sets one, KEY- removes it", USAGE)
    wanted = Wanted(resource, tuple(found), selector=None if selector is None else Selector.parse(selector))
    changed({}, changes)
    asyncio.run(_label(wanted, changes, context))


async def _label(wanted: Wanted, changes: list[str], context: str | None) -> None:
    from mcpctl.cli.specs import send, spec_of  # noqa: PLC0415 - it takes all contracts

    resource = wanted.resource
    async with session(context) as opened:
        items, missing = await find_items(opened, wanted)

        async def change(item: Any) -> None:
            before = spec_of(resource, item)
            after = spec_of(resource, item, labels=changed(labels_of(item), changes))
            done = await send(opened, resource, before, after, item)
            say(f'{resource.name} "{resource.key(item)}" {"labelled" if done else "unchanged"}')

        _, failures = await each(opened, items, change)
        if not items and not missing:
            note(f"No {resource.plural} have these labels.")
    end([*missing, *failures])


def _is_change(word: str) -> bool:
    return "=" in word or word.endswith("-")


def parse_labels(texts: Iterable[str] | None) -> dict[str, str]:
    """Read `KEY=VALUE` texts. Raises `CliError` for one that is none, or for a key that comes twice."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError(f"--label {text}: write KEY=VALUE", USAGE)
        if key in found:
            raise CliError(f"--label names {key} twice", USAGE)
        found[key] = value
    return found


def changed(labels: Mapping[str, str], changes: Iterable[str]) -> dict[str, str]:
    """Return labels with `KEY=VALUE` set and `KEY-` removed. Raises `CliError` for a key that comes twice."""
    found, seen = dict(labels), set()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            key = change.removesuffix("-")
        if not key:
            raise CliError(f"{change}: write KEY=VALUE to set a label, KEY- to remove it", USAGE)
        if key in seen:
            raise CliError(f"{key} is changed twice", USAGE)
        seen.add(key)
        if equals:
            found[key] = value
        else:
            found.pop(key, None)
    return found
