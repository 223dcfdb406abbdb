"""A briefing as the text that a model reads: prompts in full within a budget, the others by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mcpctl.bus.contracts.catalog import IndexedPrompt

NAMED = 200
"""Prompts that are named at the most, of those that are not given in full."""

NOT_GIVEN = "Not given here; read what fits your task with the tool read_prompts, by name or tag:"


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text, and the names of the prompts that it gives in full."""

    text: str
    given: tuple[str, ...]


def render(
    heading: str,
    texts: Mapping[str, str],
    index: Sequence[IndexedPrompt],
    budget: int,
    *,
    first: Sequence[str] = (),
    one_anyway: bool = False,
) -> Rendered:
    """Render `texts` in their order, as many as fit into `budget` bytes of UTF-8, and name the rest of the index.

    One that does not fit is skipped, and a smaller one after it may still be given. With `one_anyway` the first is
    given whatever its size. Of those that are only named, `first` come before the others.
    """
    of = {prompt.name: prompt for prompt in index}
    parts, left = [heading], budget
    given: list[str] = []
    for name, text in texts.items():
        size = len(text.encode())
        if size <= left or (one_anyway and not given):
            left -= size
            given.append(name)
            parts.append(f"## {_headline(name, of.get(name))}\n\n{text.strip()}")
    rest = [name for name in dict.fromkeys((*first, *sorted(of))) if name not in given and name in of]
    if rest:
        parts.append(f"---\n\n{NOT_GIVEN}\n\n{_list(rest, of)}")
    return Rendered("\n\n".join(parts), tuple(given))


def _headline(name: str, prompt: IndexedPrompt | None) -> str:
    return f"{name} (tags: {', '.join(prompt.tags)})" if prompt is not None and prompt.tags else name


def _list(names: Sequence[str], of: Mapping[str, IndexedPrompt]) -> str:
    lines = []
    for name in names[:NAMED]:
        summary = " ".join(of[name].summary.split())
        lines.append(f"- {_headline(name, of[name])}" + (f": {summary}" if summary else ""))
    if len(names) > NAMED:
        lines.append(f"- and {len(names) - NAMED} more: read_prompts gives them by tag")
    return "\n".join(lines)
