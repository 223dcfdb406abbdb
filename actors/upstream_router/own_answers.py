"""What a project answers itself, without a server: the tools of its gate, and its prompts."""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from mcpctl.actors.upstream_router import gate_tools, lists, project_prompts
from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.briefing.contents import Asker, contents
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.gate import Gate, is_exempt
from mcpctl.actors.upstream_router.project_prompts import find_prompt, visible_prompts
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts.catalog import IndexedPrompt
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import INVALID_PARAMS, Params, error_body


class OwnAnswers:
    """Lists and answers what is the project's own."""

    def __init__(self, bus: Bus, gate: Gate) -> None:
        self._bus, self.gate = bus, gate

    async def listed(self, call: Call, access: Access) -> lists.Own:
        """Return what the project adds to a list, and which tools its gate still shows. Raises `BusError`."""
        gate = access.view.gate
        if call.head.method == "prompts/list" and access.view.prompts and call.head.server is None:
            return lists.Own(project_prompts.listed(visible_prompts(access)))
        if call.head.method != "tools/list" or gate is None:
            return lists.NOTHING_OWN
        items = gate_tools.listed(gate, visible_prompts(access))
        if gate.mode == "strict" or await self.gate.is_open(call):
            return lists.Own(items)
        return lists.Own(items, partial(is_exempt, gate))

    def answering(self, asker: Asker, params: Params) -> Coroutine[Any, Any, Answer] | None:
        """Return the work that answers a request, None where a server is to be asked."""
        head, access = asker.call.head, asker.access
        if head.method == "tools/call" and access.view.gate is not None and params.name in gate_tools.NAMES:
            return self.gate.answer(asker, params)
        if head.method == "prompts/get" and head.server is None:
            prompt = find_prompt(access, params.name)
            return None if prompt is None else self._give(asker, prompt)
        return None

    async def _give(self, asker: Asker, prompt: IndexedPrompt) -> Answer:
        texts = await contents(self._bus, asker, (prompt.name,))
        if prompt.name not in texts:
            return Answer(result=None, error=error_body(INVALID_PARAMS, f"Unknown prompt: {prompt.name}"))
        return project_prompts.given(prompt, texts[prompt.name])
