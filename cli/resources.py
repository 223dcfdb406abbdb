"""The nouns of `mcpctl VERB NOUN`: their names, their columns, and the call behind each verb.

A new verb of a noun is one more call in its row. Calls are named as in the contracts and are looked up when
they are used, so that `mcpctl --help` loads none of them.
"""

import importlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mcpctl.bus.contract import Call
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.times import age, expiry

Cell = Callable[[Any], object]


@dataclass(frozen=True)
class Resource:
    """One noun. `calls` maps verbs to `<contract module>.<call>`; a noun without `get` is looked up in its list.

    `belongs` tells whether an item is one of a project's, where `-p` narrows a list that is not a project's own.
    """

    name: str
    plural: str
    short: tuple[str, ...]
    columns: tuple[tuple[str, Cell], ...]
    calls: dict[str, str] = field(default_factory=dict)
    in_project: bool = False
    belongs: Callable[[Any, str], bool] | None = None
    key: Callable[[Any], str] = lambda item: str(item.name)

    def call(self, verb: str) -> Call[Any, Any]:
        """Return the call behind a verb. Raises `CliError` where the noun has no such verb."""
        if verb not in self.calls:
            able = ", ".join(r.name for r in RESOURCES if verb in r.calls)
            raise CliError(f"{_article(self.name)} {self.name} cannot be {PAST[verb]} (that can: {able})", USAGE)
        module, _, name = self.calls[verb].partition(".")
        found: Call[Any, Any] = getattr(importlib.import_module(f"mcpctl.bus.contracts.{module}"), name)
        return found


PAST = {"list": "listed", "get": "shown", "delete": "deleted", "revoke": "revoked", "edit": "edited"}


def _target(server: Any) -> str:
    return server.spec.url or shlex.join(server.spec.command)


def _shortened(subject: str) -> str:
    """Return a subject as it fits into a table: of an mcptoken's SHA-256, the beginning tells enough."""
    return f"{subject[:21]}..." if subject.startswith("McpToken:") else subject


def _spec_name(item: Any) -> str:
    return str(item.spec.name)


RESOURCES = (
    Resource(
        "project",
        "projects",
        ("proj",),
        (
            ("NAME", _spec_name),
            ("SERVERS", lambda p: p.spec.servers),
            ("AGE", lambda p: age(p.created_at)),
            ("DESCRIPTION", lambda p: p.spec.description),
        ),
        {
            "list": "catalog.list_projects",
            "get": "catalog.get_project",
            "edit": "catalog.edit_project",
            "delete": "catalog.delete_project",
        },
        key=_spec_name,
    ),
    Resource(
        "server",
        "servers",
        ("srv",),
        (
            ("NAME", _spec_name),
            ("TRANSPORT", lambda s: "http" if s.spec.url else "stdio"),
            ("PROJECTS", lambda s: s.projects),
            ("AGE", lambda s: age(s.created_at)),
            ("TARGET", _target),
        ),
        {
            "list": "catalog.list_servers",
            "get": "catalog.get_server",
            "edit": "catalog.edit_server",
            "delete": "catalog.delete_server",
        },
        belongs=lambda server, project: project in server.projects,
        key=_spec_name,
    ),
    Resource(
        "mcptoken",
        "mcptokens",
        ("token", "tokens", "tok"),
        (
            ("NAME", lambda t: t.name),
            ("PROJECT", lambda t: t.project),
            ("OWNER", lambda t: t.owner.name),
            ("STATUS", lambda t: t.status),
            ("EXPIRES", lambda t: expiry(t.expires_at)),
            ("LAST USED", lambda t: age(t.last_used_at)),
            ("AGE", lambda t: age(t.created_at)),
        ),
        {"list": "token.list_tokens", "get": "token.describe", "revoke": "token.revoke", "delete": "token.delete"},
        in_project=True,
    ),
    Resource(
        "user",
        "users",
        (),
        (
            ("NAME", lambda u: u.name),
            ("GROUPS", lambda u: u.groups),
            ("STATUS", lambda u: "disabled" if u.disabled else "active"),
            ("AGE", lambda u: age(u.created_at)),
        ),
        {
            "list": "token.list_users",
            "get": "token.get_user",
            "edit": "token.edit_user",
            "delete": "token.delete_user",
        },
    ),
    Resource(
        "rbac",
        "rbac",
        (),
        (
            ("NAME", lambda d: d.name),
            ("PROJECT", lambda d: d.project or "(all)"),
            ("SUBJECTS", lambda d: [_shortened(subject) for subject in d.subjects]),
            ("BINDINGS", lambda d: "; ".join(map(str, d.bindings))),
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
        "serviceaccount",
        "serviceaccounts",
        ("sa",),
        (
            ("NAME", lambda s: s.name),
            ("GROUPS", lambda s: s.groups),
            ("AGE", lambda s: age(s.created_at)),
            ("DESCRIPTION", lambda s: s.description),
        ),
        {"list": "token.list_service_accounts", "delete": "token.delete_service_account"},
    ),
    Resource(
        "secret",
        "secrets",
        (),
        (
            ("NAME", lambda s: s.name),
            ("USED BY", lambda s: s.used_by),
            ("CHANGED", lambda s: age(s.updated_at)),
            ("AGE", lambda s: age(s.created_at)),
        ),
        {"list": "catalog.list_secrets", "delete": "catalog.delete_secret"},
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
