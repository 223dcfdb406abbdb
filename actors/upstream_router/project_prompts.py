"""A project's prompts as MCP prompts: listed before those of its servers, and given without asking one of these."""

from collections.abc import Sequence

from mcpctl.actors.upstream_router.access import Access
from mcpctl.bus.contracts.catalog import IndexedPrompt
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import encode


def visible_prompts(access: Access) -> list[IndexedPrompt]:
    """Return the prompts that count in the project and that the caller may see: `view` on each by its name."""
    return [prompt for prompt in access.view.prompts if sees_prompt(access, prompt.name)]


def sees_prompt(access: Access, name: str) -> bool:
    """Tell whether the caller may see a prompt of this name."""
    return access.scope.allows("view", ("prompts", name))


def find_prompt(access: Access, name: object) -> IndexedPrompt | None:
    """Return the project's prompt of this name, None where the caller sees none."""
    if not access.view.prompts or not isinstance(name, str) or not sees_prompt(access, name):
        return None
    return next((prompt for prompt in access.view.prompts if prompt.name == name), None)


def listed(prompts: Sequence[IndexedPrompt]) -> list[bytes]:
    """Return items of `prompts/list`."""
    return [encode({"name": p.name} | ({"description": p.summary} if p.summary else {})) for p in prompts]


def given(prompt: IndexedPrompt, text: str) -> Answer:
    """Return the result of `prompts/get`: one message of the user."""
    message = {"role": "user", "content": {"type": "text", "text": text}}
    result: dict[str, object] = {"resultType": "complete", "messages": [message]}
    if prompt.summary:
        result["description"] = prompt.summary
    return Answer(result=encode(result), error=None)
