"""`mcpctl freeze` and `mcpctl unfreeze`: a project stops for everybody, and goes on."""

import asyncio

from mcpctl.cli.options import ContextName, LabelSelector, Names, Noun
from mcpctl.cli.verbs import change, named


def freeze(noun: Noun, names: Names = None, *, selector: LabelSelector = None, context: ContextName = None) -> None:
    """Stop projects at once: every call and stream of theirs ends, and new ones are refused. Tokens stay.

    \b
    Examples:
      mcpctl freeze project demo
      mcpctl freeze projects -l team=shop
    """  # noqa: D301 - \b keeps the examples' lines apart
    asyncio.run(change(named(noun, names, None, selector), "freeze", context))


def unfreeze(noun: Noun, names: Names = None, *, selector: LabelSelector = None, context: ContextName = None) -> None:
    """Let frozen projects go on.

    \b
    Examples:
      mcpctl unfreeze project demo
    """  # noqa: D301 - \b keeps the examples' lines apart
    asyncio.run(change(named(noun, names, None, selector), "unfreeze", context))
