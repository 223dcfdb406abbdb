"""The prompts of a briefing, chosen by tags, words and priority: the same question has the same answer everywhere."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from mcpctl.actors.upstream_router.briefing.arguments import texts_of
from mcpctl.actors.upstream_router.briefing.words import cut, singular, words_of, words_of_name
from mcpctl.bus.contracts.catalog import IndexedPrompt

ALWAYS = 10
"""The priority of a prompt that is part of every briefing."""

DESCRIPTION = 8192
"""Bytes of UTF-8 of a task's description that count."""

TAGS = 64
WORDS = 500
NAME = 256  # characters of a tool's name
SAID = 5  # tags or words that a reason names

_TAG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Task:
    """What a briefing is for. Both may come from a model: they are matched, never obeyed."""

    tags: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt that is given, and why: a short text that is made of the index, not of what was asked."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Match:
    prompt: IndexedPrompt
    tags: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """What prompts are sorted by, the best first."""
        weight = self.prompt.priority
        return -len(self.tags) * weight, -len(self.words) * weight, -weight, self.prompt.name

    @property
    def reason(self) -> str:
        said = []
        if self.prompt.priority == ALWAYS:
            said.append(f"priority {ALWAYS}")
        if self.tags:
            said.append(f"{'tag' if len(self.tags) == 1 else 'tags'} {_few(self.tags)}")
        if self.words:
            said.append(f"{'word' if len(self.words) == 1 else 'words'}: {_few(self.words)}")
        return "; ".join(said)


def choose(index: Sequence[IndexedPrompt], task: Task) -> list[Choice]:
    """Return the prompts that a task asks for, in the order in which they are given; all, where it asks for none.

    Those of priority 10 come first, asked for or not. Then counts how many of a prompt's tags are asked for, how many
    words of the task are in its name, tags and summary (both weighed by its priority), its priority, and its name.
    """
    asked = {singular(tag.casefold()) for tag in _tags(task)}
    words = _words(task)
    matches = sorted((_match(prompt, asked, words) for prompt in index), key=lambda match: match.rank)
    if any(match.tags or match.words for match in matches):
        return with_always(index, [Choice(m.prompt.name, m.reason) for m in matches if m.tags or m.words])
    return with_always(
        index,
        [Choice(m.prompt.name, m.reason or f"priority {m.prompt.priority}, nothing matched") for m in matches],
    )


def with_always(index: Iterable[IndexedPrompt], choices: Sequence[Choice]) -> list[Choice]:
    """Put the prompts of priority 10 first, however they were chosen, and those among them that were not."""
    always = {prompt.name for prompt in index if prompt.priority == ALWAYS}
    named = {choice.name for choice in choices}
    return [
        *(choice for choice in choices if choice.name in always),
        *(Choice(name, f"priority {ALWAYS}") for name in sorted(always - named)),
        *(choice for choice in choices if choice.name not in always),
    ]


def bounded(task: Task) -> Task:
    """Return a task as much of it as counts."""
    return Task(tuple(_tags(task)), cut(task.description, DESCRIPTION))


def task_of_call(server: str, tool: str, arguments: bytes | None) -> Task:
    """Return the task at which a tool call hints: its tags are the server and the words of the tool's own name.

    Its description is those words, and the names and short texts in the arguments, as far as they can be read.
    """
    name = tuple(words_of_name(tool[:NAME]).values())
    tags = tuple(tag for tag in dict.fromkeys((server, *name)) if _TAG.fullmatch(tag))
    return bounded(Task(tags, " ".join((*name, *texts_of(arguments)))))


def _tags(task: Task) -> list[str]:
    return [cut(tag, NAME).strip() for tag in task.tags[:TAGS]]


def _words(task: Task) -> dict[str, str]:
    """Return the words that count, those of the tags before the description's."""
    words = {word: said for tag in _tags(task) for word, said in words_of(tag).items()}
    for word, said in words_of(cut(task.description, DESCRIPTION)).items():
        words.setdefault(word, said)
    return dict(islice(words.items(), WORDS))


def _match(prompt: IndexedPrompt, asked: set[str], words: Mapping[str, str]) -> _Match:
    """Compare a prompt with what is asked for. A word that is in a matched tag does not count again."""
    tags = tuple(sorted(tag for tag in prompt.tags if singular(tag.casefold()) in asked))
    own = _own_words(" ".join((prompt.name, *prompt.tags, prompt.summary)))
    spoken_for = words_of(" ".join(tags))
    return _Match(prompt, tags, tuple(said for word, said in words.items() if word in own and word not in spoken_for))


@lru_cache(2048)
def _own_words(text: str) -> frozenset[str]:
    """Return the words of a prompt: the same few are asked about again and again."""
    return frozenset(words_of(text))


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:SAID]) + (", ..." if len(texts) > SAID else "")
