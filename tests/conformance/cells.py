"""The tables of `docs/protocol.md` and of the tests behind them: who speaks which era, what works, what cannot."""

from typing import NamedTuple

LEGACY, MODERN = "legacy", "2026-07-28"

CLIENTS = {LEGACY: "old client", MODERN: "new client"}
UPSTREAMS = {
    "old": "old upstream",
    "new": "new upstream",
    "dual": "upstream of both eras",
    "stdio": "stdio, both eras",
}

FEATURES = {
    "tools": "Tools: list, call, structured results, errors of a tool",
    "resources": "Resources: list, read, the error for one that is not there",
    "templates": "Resource templates: list, and read what they describe",
    "prompts": "Prompts: list, get",
    "completion": "Completion: of an argument of a prompt and of a template",
    "progress": "Progress: each step, before the result",
    "logging": "Log messages: from the level on that the client wants",
    "cancellation": "Cancellation reaches the upstream",
    "list_changed": "`list_changed` of tools, prompts, resources, from another gateway",
    "resource_updates": "Updates of a resource, from another gateway",
    "sampling": "Sampling in the middle of a call",
    "elicitation_form": "Elicitation, form: accepted, declined",
    "elicitation_url": "Elicitation, URL",
    "roots": "Roots asked for in the middle of a call",
    "undeclared": "A question for which the client declared no capability: -32021",
}


class Unbridged(NamedTuple):
    """What one era has and the other has no place for: what is asked, and what is answered."""

    asked: str
    answered: str


UNBRIDGED = {
    "roots_list_changed": Unbridged(
        "`notifications/roots/list_changed` of an old client", "202; goes nowhere: a new upstream asks for roots anew"
    ),
    "removed_methods": Unbridged(
        "`initialize`, `ping`, `logging/setLevel`, `resources/subscribe`, `resources/unsubscribe` of a new client",
        "404, -32601: the revision has removed them",
    ),
    "resuming": Unbridged("`GET` with `Last-Event-ID` of a new client", "405: its streams have no event ids"),
    "tasks": Unbridged(
        "`tasks/*` of either era; a `task` in the params of an old client's call",
        "-32601; the call is answered as if the `task` were not there. No tasks are declared to either side",
    ),
}
