"""Briefings: which prompts a caller is given, why, and the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from mcpctl.actors.upstream_router.briefing.choosing import Choice, Task, choose
from mcpctl.actors.upstream_router.briefing.contents import Asker, contents
from mcpctl.actors.upstream_router.briefing.model import ModelRefused, choose_by_model
from mcpctl.actors.upstream_router.briefing.rendering import render
from mcpctl.actors.upstream_router.project_prompts import visible_prompts
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.catalog import IndexedPrompt
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import site_of
from mcpctl.bus.networks import Networks

log = structlog.get_logger()

PROMPTS_READ = 60
"""Prompts whose contents are read for one answer at the most; more are named."""

INTRODUCTION = "# Briefing for project {project}\n\nRead all of this before you go on. It holds for your whole session."

NOT_CALLED_YET = (
    " The project's other tools are open to you now: if you do not see them, ask for the list of tools again."
)

CALLED = (
    " This project briefs its agents at their first call: yours has been carried out, and its result follows after "
    "this text. The other tools of the project are open to you now: if you do not see them, ask for the list of tools "
    "again."
)

NOTHING = "\n\nNothing has been written down that you would have to know."


@dataclass(frozen=True, slots=True)
class Briefing:
    """What a caller is told. `choices` are the prompts given, each with the reason; `way` is how they were chosen."""

    text: str
    tags: tuple[str, ...]
    choices: dict[str, str]
    way: str


class Briefings:
    """Writes briefings."""

    def __init__(self, bus: Bus, networks: Networks) -> None:
        self._bus, self._networks = bus, networks

    async def of_task(self, asker: Asker, task: Task) -> Briefing:
        """Brief for a task, by the project's model where it has one. Raises `BusError`."""
        index = visible_prompts(asker.access)
        choices, way = await self._choose(asker, index, task)
        return await self._compose(asker, index, task, choices, way, NOT_CALLED_YET)

    async def of_call(self, asker: Asker, task: Task) -> Briefing:
        """Brief for a call that is made without having begun: it does not wait for a model. Raises `BusError`."""
        index = visible_prompts(asker.access)
        return await self._compose(asker, index, task, choose(index, task), "words", CALLED)

    async def more(self, asker: Asker, names: Sequence[str], tags: Sequence[str]) -> Briefing:
        """Give prompts by name and by tag. Raises `BusError`, and `ValueError` where there is none of them."""
        index = visible_prompts(asker.access)
        there = {prompt.name for prompt in index}
        tagged = sorted((p for p in index if not set(tags).isdisjoint(p.tags)), key=lambda p: (-p.priority, p.name))
        wanted = list(dict.fromkeys([*(name for name in names if name in there), *(p.name for p in tagged)]))
        missing = [name for name in names if name not in there]
        heading = f"# Prompts of project {asker.access.view.project}"
        if missing:
            heading += f"\n\nThere is no prompt {', '.join(missing[:20])}."
        if not wanted:
            heading += "" if missing else "\n\nNo prompt has one of these tags."
            raise ValueError(render(heading, {}, index, 0).text)
        texts = await contents(self._bus, asker, wanted[:PROMPTS_READ])
        rendered = render(heading, texts, index, asker.budget, first=wanted, one_anyway=True)
        return Briefing(rendered.text, tuple(tags), dict.fromkeys(rendered.given, "asked for"), "read")

    async def _choose(self, asker: Asker, index: Sequence[IndexedPrompt], task: Task) -> tuple[list[Choice], str]:
        gate = asker.access.view.gate
        if gate is None or gate.llm is None or not index:
            return choose(index, task), "words"
        head = asker.call.head
        if site_of(self._bus.caller):
            return choose(index, task), "words, since a site's router is not given the model's key"
        try:
            asked = catalog.UnsealModel(bearer=head.bearer, project=head.project)
            model = await self._bus.call(catalog.unseal_model, asked)
            return await choose_by_model(model, index, task, asker.patience, self._networks), f"model {model.model}"
        except (ModelRefused, BusError) as reason:
            log.info("prompts chosen without the model", project=head.project, reason=str(reason))
            return choose(index, task), f"words, since the model did not choose: {reason}"

    async def _compose(
        self,
        asker: Asker,
        index: Sequence[IndexedPrompt],
        task: Task,
        choices: Sequence[Choice],
        way: str,
        state: str,
    ) -> Briefing:
        names = [choice.name for choice in choices]
        texts = await contents(self._bus, asker, names[:PROMPTS_READ])
        heading = INTRODUCTION.format(project=asker.access.view.project) + state + ("" if index else NOTHING)
        rendered = render(heading, texts, index, asker.budget, first=names)
        reasons = {choice.name: choice.reason for choice in choices if choice.name in rendered.given}
        return Briefing(rendered.text, task.tags, reasons, way)
