"""What all commands of `create` do: ask, and tell what is there now."""

import asyncio
from typing import Any

from mcpctl.bus.contract import Call
from mcpctl.cli.output import Format, print_data, say
from mcpctl.cli.session import session


def create_one(
    call: Call[Any, Any], noun: str, name: str, output: Format, context: str | None, /, **members: Any
) -> None:
    """Ask for something new, and print it. Raises `CliError`."""
    print_created(noun, name, asyncio.run(_ask(call, context, {"name": name, **members})), output)


def print_created(noun: str, name: str, created: Any, output: Format) -> None:
    """Print what was created."""
    if output is Format.NAME:
        say(f"{noun}/{name}")
    elif output is Format.TABLE:
        say(f'{noun} "{name}" created')
    else:
        from mcpctl.cli.manifests import document  # noqa: PLC0415 - tables do without

        print_data(document(noun, created), output)


async def _ask(call: Call[Any, Any], context: str | None, members: dict[str, Any]) -> Any:
    async with session(context) as opened:
        return await opened.ask(call, **members)
