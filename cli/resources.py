"""The nouns of `mcpctl VERB NOUN`: their names, their columns, and the call behind each verb.

A new verb of a noun is one more call in its row. Calls are named as in the contracts and are looked up when
they are used, so that `mcpctl --help` loads none of them.
"""

import importlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from mcpctl.bus.contract import Call
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.times import age, ago, expiry

Cell = Callable[[Any], object]


@dataclass(frozen=True)
class Column:
    """One column of a table: sorted by `by` where that is not its text, shown with `-o wide` alone where `wide`."""

    title: str
    cell: Cell
    by: Cell | None = None
    wide: bool = False


@dataclass(frozen=True)
class Resource:
    """One noun. `calls` maps verbs to `<contract module>.<call>`.

    `instead` says what to do where a verb is not for this noun. `belongs` tells whether an item is one of a project's,
    where `-p` narrows a list that is not a project's own. `lister` (`<module>:<function>`) lists what no actor keeps;
    `beside` adds to its items what only tables show. `data` is what JSON and YAML show of an item for which
    there is no document: such a noun is no part of `get all`.
    """

    name: str
    plural: str
    short: tuple[str, ...]
    columns: tuple[Column, ...]
    calls: dict[str, str] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    in_project: bool = False
    belongs: Callable[[Any, str], bool] | None = None
    key: Callable[[Any], str] = lambda item: str(item.name)
    lister: str | None = None
    beside: str | None = None
    data: Callable[[Any], dict[str, Any]] | None = None

    def call(self, verb: str) -> Call[Any, Any]:
        """Return the call behind a verb. Raises `CliError` where the noun has no such verb."""
        if verb not in self.calls:
            raise self.cannot(verb)
        module, _, name = self.calls[verb].partition(".")
        found: Call[Any, Any] = getattr(importlib.import_module(f"mcpctl.bus.contracts.{module}"), name)
        return found

    def cannot(self, verb: str) -> CliError:
        """Return the error of a verb that is not for this noun."""
        able = [r.name for r in RESOURCES if verb in r.calls]
        hint = f": {self.instead[verb]}" if verb in self.instead else f" (that can: {', '.join(able)})" if able else ""
        return CliError(f"{_article(self.name)} {self.name} cannot be {PAST[verb]}{hint}", USAGE)

    def shown(self, *, wide: bool) -> tuple[Column, ...]:
        """Return the columns of its table."""
        return tuple(column for column in self.columns if wide or not column.wide)


PAST = {
    "list": "listed",
    "get": "shown by name",
    "delete": "deleted",
    "revoke": "revoked",
    "freeze": "frozen",
    "unfreeze": "unfrozen",
    "rotate": "rotated",
    "edit": "edited",
    "label": "labelled",
    "watch": "watched",
}


def labels_of(item: Any) -> Mapping[str, str]:
    """Return an item's labels; what cannot have any has none."""
    found: Mapping[str, str] = getattr(getattr(item, "spec", item), "labels", {})
    return found


def _labels(item: Any) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(labels_of(item).items())]


def _target(server: Any) -> str:
    return server.spec.url or shlex.join(server.spec.command)


def _source(prompt: Any) -> str | None:
    resource = prompt.spec.resource
    return f"{resource.server}/{resource.uri}" if resource else None


def _shortened(subject: str) -> str:
    """Return a subject as it fits into a table: of an mcptoken's SHA-256, the beginning tells enough."""
    return f"{subject[:21]}..." if subject.startswith("McpToken:") else subject


def _spec_name(item: Any) -> str:
    return str(item.spec.name)


def _last_use(token: Any) -> datetime | None:
    moment: datetime | None = token.last_use.at if token.last_use else None
    return moment


def _passage(gate: Any) -> dict[str, Any]:
    found: dict[str, Any] = gate.model_dump(mode="json", exclude={"kind", "name", "project", "opened_by"})
    return {"kind": "gate", "project": gate.project, "subject": gate.subject, "openedBy": gate.opened_by, **found}


def _seconds_since(moment: datetime) -> float:
    return -moment.timestamp()


_CLOSE = "close it with mcpctl gate close -p PROJECT SUBJECT"

NAME = Column("NAME", lambda item: item.name)
SPEC_NAME = Column("NAME", _spec_name)
AGE = Column("AGE", lambda item: age(item.created_at), by=lambda item: _seconds_since(item.created_at))
GROUPS = Column("GROUPS", lambda item: item.groups)
LABELS = Column("LABELS", _labels, wide=True)
DESCRIPTION = Column("DESCRIPTION", lambda item: item.description)

RESOURCES = (
    Resource(
        "project",
        "projects",
        ("proj",),
        (
            SPEC_NAME,
            Column("SERVERS", lambda p: p.spec.servers),
            Column("STATE", lambda p: "frozen" if p.frozen_at else "active"),
            AGE,
            Column("DESCRIPTION", lambda p: p.spec.description),
            Column("NAMING", lambda p: p.spec.naming, wide=True),
            Column("GATE", lambda p: p.spec.gate.mode if p.spec.gate else None, wide=True),
            Column("MAX TTL", lambda p: p.spec.max_token_ttl, by=lambda p: p.spec.max_token_ttl_seconds, wide=True),
            Column("QUOTA", lambda p: p.spec.quota, wide=True),
            LABELS,
        ),
        {
            "list": "catalog.list_projects",
            "get": "catalog.get_project",
            "edit": "catalog.edit_project",
            "delete": "catalog.delete_project",
            "freeze": "catalog.freeze_project",
            "unfreeze": "catalog.unfreeze_project",
        },
        key=_spec_name,
    ),
    Resource(
        "server",
        "servers",
        ("srv",),
        (
            SPEC_NAME,
            Column("TRANSPORT", lambda s: "http" if s.spec.url else "stdio"),
            Column("PROJECTS", lambda s: s.projects),
            AGE,
            Column("TARGET", _target),
            Column("STATUS", lambda s: getattr(s, "status", None)),
            Column("PREFIX", lambda s: s.spec.slug, wide=True),
            Column("ISOLATION", lambda s: s.spec.isolation, wide=True),
            Column("PLACEMENT", lambda s: s.spec.placement, wide=True),
            Column("DESCRIPTION", lambda s: s.spec.description, wide=True),
            LABELS,
        ),
        {
            "list": "catalog.list_servers",
            "get": "catalog.get_server",
            "edit": "catalog.edit_server",
            "delete": "catalog.delete_server",
        },
        belongs=lambda server, project: project in server.projects,
        key=_spec_name,
        beside="mcpctl.cli.server_states:with_states",
    ),
    Resource(
        "prompt",
        "prompts",
        ("pr",),
        (
            SPEC_NAME,
            Column("PROJECT", lambda p: p.spec.project or "(all)"),
            Column("PRIORITY", lambda p: p.spec.priority),
            Column("TAGS", lambda p: p.spec.tags),
            AGE,
            Column("SUMMARY", lambda p: p.spec.summary),
            Column("RESOURCE", _source, wide=True),
            LABELS,
        ),
        {
            "list": "catalog.list_prompts",
            "get": "catalog.get_prompt",
            "edit": "catalog.edit_prompt",
            "delete": "catalog.delete_prompt",
        },
        belongs=lambda prompt, project: prompt.spec.project in (project, None),
        key=_spec_name,
    ),
    Resource(
        "mcptoken",
        "mcptokens",
        ("token", "tokens", "tok"),
        (
            NAME,
            Column("PROJECT", lambda t: t.project),
            Column("PREFIX", lambda t: t.prefix),
            Column("CREATED", lambda t: ago(t.created_at), by=lambda t: t.created_at),
            Column("LAST USED", lambda t: ago(_last_use(t)), by=_last_use),
            Column("EXPIRES", lambda t: expiry(t.expires_at), by=lambda t: t.expires_at),
            Column("STATUS", lambda t: t.status),
            Column("OWNER", lambda t: f"{t.owner.kind}:{t.owner.name}", wide=True),
            Column("DESCRIPTION", lambda t: t.description, wide=True),
            Column("QUOTA", lambda t: t.quota, wide=True),
        ),
        {"list": "token.list_tokens", "get": "token.describe", "revoke": "token.revoke", "delete": "token.delete"},
        instead={
            "edit": "revoke it and create another, or give it a new bearer: mcpctl rotate mcptoken NAME -p PROJECT",
            "label": "it gets its labels when it is created",
        },
        in_project=True,
    ),
    Resource(
        "user",
        "users",
        (),
        (NAME, GROUPS, Column("STATUS", lambda u: "disabled" if u.disabled else "active"), AGE, LABELS),
        {
            "list": "token.list_users",
            "get": "token.get_user",
            "edit": "token.edit_user",
            "delete": "token.delete_user",
        },
    ),
    Resource(
        "group",
        "groups",
        (),
        (NAME, Column("MEMBERS", lambda g: g.members), GROUPS, AGE, DESCRIPTION, LABELS),
        {
            "list": "token.list_groups",
            "get": "token.get_group",
            "edit": "token.edit_group",
            "delete": "token.delete_group",
        },
    ),
    Resource(
        "serviceaccount",
        "serviceaccounts",
        ("sa",),
        (NAME, GROUPS, AGE, Column("ROUTER SITE", lambda a: a.router_site, wide=True), DESCRIPTION, LABELS),
        {
            "list": "token.list_service_accounts",
            "get": "token.get_service_account",
            "edit": "token.edit_service_account",
            "delete": "token.delete_service_account",
        },
    ),
    Resource(
        "rbac",
        "rbac",
        (),
        (
            NAME,
            Column("PROJECT", lambda d: d.project or "(all)"),
            Column("SUBJECTS", lambda d: [_shortened(subject) for subject in d.subjects]),
            Column("BINDINGS", lambda d: "; ".join(map(str, d.bindings))),
            LABELS,
        ),
        {
            "list": "rbac.list_definitions",
            "get": "rbac.get_definition",
            "edit": "rbac.redefine",
            "delete": "rbac.delete_definition",
        },
        belongs=lambda definition, project: definition.project in (project, None),
    ),
    Resource(
        "secret",
        "secrets",
        (),
        (
            NAME,
            Column("USED BY", lambda s: s.used_by),
            Column("CHANGED", lambda s: age(s.updated_at), by=lambda s: _seconds_since(s.updated_at)),
            AGE,
            LABELS,
        ),
        {"list": "catalog.list_secrets", "get": "catalog.get_secret", "delete": "catalog.delete_secret"},
        instead={"edit": "give it another value with mcpctl create secret NAME --replace"},
    ),
    Resource(
        "tool",
        "tools",
        (),
        (
            NAME,
            Column("PROJECT", lambda t: t.project),
            Column("SERVER", lambda t: t.server),
            Column("STATE", lambda t: t.state),
            Column("DESCRIPTION", lambda t: t.description.partition("\n")[0]),
        ),
        instead={
            "get": "list them with mcpctl get tools -p PROJECT",
            "delete": "its server offers it: grant less, or take the server out of the project",
            "edit": "its server offers it",
            "label": "its server offers it",
            "watch": "each look asks its server; repeat the command",
        },
        lister="mcpctl.cli.tools:list_tools",
        data=lambda t: {"kind": "tool", "project": t.project, "server": t.server, "state": t.state, **t.tool},
    ),
    Resource(
        "gate",
        "gates",
        (),
        (
            Column("PRINCIPAL", lambda g: g.subject),
            Column("PROJECT", lambda g: g.project),
            Column("SINCE", lambda g: ago(g.since), by=lambda g: g.since),
            Column("UNTIL", lambda g: expiry(g.until) if g.until else "with its session", by=lambda g: g.until),
            Column("OPENED BY", lambda g: g.opened_by),
            Column("TAGS", lambda g: g.tags),
            Column("PROMPTS", lambda g: len(g.prompts)),
            Column("PROMPT NAMES", lambda g: g.prompts, wide=True),
            Column("SESSION", lambda g: g.session and g.session[:12], wide=True),
        ),
        {"list": "gate.list_gates"},
        instead={
            "get": "list who is through with mcpctl get gates -p PROJECT",
            "delete": _CLOSE,
            "revoke": _CLOSE,
            "edit": "a project says what its gate does: mcpctl edit project NAME",
            "label": "who is through has no labels",
        },
        key=lambda gate: str(gate.subject),
        data=_passage,
    ),
)

NOUNS = {noun: r for r in RESOURCES for noun in (r.name, r.plural, *r.short)}


def find(noun: str) -> Resource:
    """Return the resource that a noun means. Raises `CliError` that names the nearest one."""
    found = NOUNS.get(noun.lower())
    if found is None:
        near = get_close_matches(noun.lower(), NOUNS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(r.plural for r in RESOURCES)}"
        raise CliError(f'no resource "{noun}": {hint}', USAGE)
    return found


def canonical(noun: str) -> str:
    """Return a noun's singular; what is no noun stays as it is."""
    found = NOUNS.get(noun.lower())
    return found.name if found else noun


def _article(noun: str) -> str:
    return "an" if noun.startswith(("mcp", "rbac")) else "a"
