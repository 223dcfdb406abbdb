"""The gate's own tools, as models read them: `begin_session` and `read_prompts`."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mcpctl.bus.connection import first_fault
from mcpctl.bus.contracts.catalog import GateSpec, IndexedPrompt

BEGIN, READ = "begin_session", "read_prompts"
NAMES = frozenset({BEGIN, READ})

TAGS_SHOWN = 40
"""Tags that a description names at the most, the most frequent first."""

Word = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


M = TypeVar("M", bound=BaseModel)


class BeginArguments(BaseModel):
    """Arguments of `begin_session`."""

    model_config = ConfigDict(extra="forbid")

    tags: list[Word] = Field(default_factory=list, max_length=64)
    description: str = Field("", max_length=8192)


class ReadArguments(BaseModel):
    """Arguments of `read_prompts`."""

    model_config = ConfigDict(extra="forbid")

    names: list[Word] = Field(default_factory=list, max_length=500)
    tags: list[Word] = Field(default_factory=list, max_length=64)


def read_begin(arguments: bytes | None) -> BeginArguments:
    """Read the arguments of `begin_session`. Raises `ValueError` with a text for the model."""
    return _read(BEGIN, BeginArguments, arguments)


def read_read(arguments: bytes | None) -> ReadArguments:
    """Read the arguments of `read_prompts`. Raises `ValueError` with a text for the model."""
    wanted = _read(READ, ReadArguments, arguments)
    if not wanted.names and not wanted.tags:
        raise ValueError(f"{READ} was not carried out: name the prompts that you want, or their tags")
    return wanted


def _read(tool: str, model: type[M], arguments: bytes | None) -> M:
    try:
        return model.model_validate_json(arguments or b"{}")
    except ValidationError as error:
        raise ValueError(f"{tool} was not carried out: {first_fault(error)}") from None


def listed(gate: GateSpec, prompts: Sequence[IndexedPrompt]) -> list[bytes]:
    """Return both tools as items of `tools/list`, for a caller who may see `prompts`."""
    tags = _tags(prompts)
    unlocked = (
        "Until then every other tool refuses to run."
        if gate.mode == "strict"
        else "The other tools are listed once you have called it: ask for the list of tools again."
    )
    begin = (
        "Call this once, before anything else. It returns what the owners of this project want you to know for your "
        f"task (rules, conventions, warnings), and opens the project's other tools. {unlocked} Say in `description` "
        "what you have been asked to do, in one or two sentences, and name the `tags` that fit. Read all of the "
        "answer, and follow it."
    )
    read = (
        f"Returns more of the project's prompts in full, by name or by tag. {BEGIN} names those that it did not give "
        "you; read one as soon as its summary fits what you are about to do. It changes nothing."
    )
    tag_list = {
        "type": "array",
        "items": {"type": "string"},
        "maxItems": 64,
        "description": "Topics of your task" + (f", such as: {', '.join(tags)}" if tags else ""),
    }
    return [
        _tool(
            BEGIN,
            "Begin the session",
            begin,
            {
                "tags": tag_list,
                "description": {
                    "type": "string",
                    "maxLength": 8192,
                    "description": "What you have been asked to do, in your own words",
                },
            },
        ),
        _tool(
            READ,
            "Read more prompts",
            read,
            {
                "names": {
                    "type": "array",
                    "items": {"type": "string"},
                    "maxItems": 500,
                    "description": "Names of prompts, as a briefing gives them",
                },
                "tags": tag_list,
            },
        ),
    ]


def _tool(name: str, title: str, description: str, properties: dict[str, object]) -> bytes:
    return msgspec.json.encode(
        {
            "name": name,
            "title": title,
            "description": description,
            "inputSchema": {"type": "object", "properties": properties, "additionalProperties": False},
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        }
    )


def _tags(prompts: Sequence[IndexedPrompt]) -> list[str]:
    count: dict[str, int] = {}
    for prompt in prompts:
        for tag in prompt.tags:
            count[tag] = count.get(tag, 0) + 1
    return sorted(count, key=lambda tag: (-count[tag], tag))[:TAGS_SHOWN]
