"""Resources as documents: what `get -o yaml` prints, and what `apply` and `edit` take.

A document is a `kind`, the members of its specification (in camelCase, at every depth), and a `status` of read-only
facts, which is not taken.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, get_type_hints

import orjson
from pydantic import ValidationError

from mcpctl.bus.contract import Message, Ref
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.names import lifetime_seconds
from mcpctl.cli import nested
from mcpctl.cli.errors import CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.nested import camel
from mcpctl.cli.yaml_documents import Path, YamlDocument

Document = dict[str, Any]
Members = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of document. `renamed` maps members of the specification to keys that are not just their camelCase.

    `read` turns keys that stand for something else into members; `show` does the opposite.
    """

    name: str
    spec: type[Message]
    renamed: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    read: Callable[[YamlDocument, Document], Members] = lambda _document, members: members
    show: Callable[[Any, Document], Document] = lambda _item, document: document

    def key(self, member: str) -> str:
        """Return the key under which a document holds a member of the specification."""
        return self.renamed.get(member) or camel(member)

    @property
    def keys(self) -> dict[str, str]:
        """The members of the specification by their keys."""
        return {self.key(member): member for member in self.spec.model_fields if member not in self.hidden}

    def shape(self, key: str) -> Any:
        """Return the type of what a document holds under a key, None for a key that is no member's."""
        found = get_type_hints(self.spec, include_extras=True).get(self.keys.get(key, ""))
        return None if found is None else nested.bare(found)


@dataclass(frozen=True)
class Manifest:
    """A document that was read: its kind, its specification, and where it stands."""

    kind: Kind
    spec: Any
    source: YamlDocument

    @property
    def ref(self) -> Ref:
        project = self.spec.project if self.kind.name == "mcptoken" else None
        return Ref(kind=self.kind.name, name=self.spec.name, project=project)


def _read_token(document: YamlDocument, members: Document) -> Members:
    """Read `ttl`: a length of time, or `never`."""
    ttl = members.pop("ttl", None)
    if ttl is None:
        return members
    if "expiresAt" in members:
        raise document.error(("ttl",), "give either ttl or expiresAt")
    if ttl == "never":
        return members | {"never_expires": True}
    if not isinstance(ttl, str) or not re.fullmatch(r"[1-9][0-9]{0,8}[smhdw]", ttl):
        raise document.error(("ttl",), "must be a length of time such as 30d or 12h, or never")
    return members | {"ttl_seconds": lifetime_seconds(ttl)}


def _show_token(item: Any, document: Document) -> Document:
    if item.expires_at is None:
        document["ttl"] = "never"
    return document


def _read_secret(document: YamlDocument, members: Document) -> Members:
    """Read `valueFrom`: the name of an environment variable or of a file, so that the value stays out of documents."""
    source = members.pop("valueFrom", None)
    if source is None:
        return members
    if not isinstance(source, dict) or len(source) != 1 or not {"env", "file"} >= source.keys() or "value" in members:
        raise document.error(("valueFrom",), "write either {env: NAME} or {file: PATH}, and no value beside it")
    ((kind, where),) = source.items()
    value = os.environ.get(str(where)) if kind == "env" else _file_text(document, str(where))
    if not value:
        raise document.error(("valueFrom", kind), f"{where} is empty or not set")
    return members | {"value": value}


def _file_text(document: YamlDocument, path: str) -> str:
    try:
        return FilePath(path).read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise document.error(("valueFrom", "file"), f"cannot read {path}: {reason}") from error


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("secret", catalog.SecretSpec, read=_read_secret),
        Kind("server", catalog.ServerSpec),
        Kind("project", catalog.ProjectSpec),
        Kind("prompt", catalog.PromptSpec),
        Kind("group", token.GroupSpec),
        Kind("user", token.UserSpec),
        Kind("serviceaccount", token.ServiceAccountSpec),
        Kind("rbac", rbac.Definition, renamed={"bindings": "roleBindings"}),
        Kind(
            "mcptoken",
            token.TokenSpec,
            renamed={"bindings": "roleBindings"},
            hidden=frozenset({"ttl_seconds", "never_expires"}),
            read=_read_token,
            show=_show_token,
        ),
    )
}
"""In the order in which documents are applied: what others refer to comes first, what gives rights last."""

NOT_SHOWN = ("password_hash", "value", "sealed")


def document(kind_name: str, item: Any, *, bindings: tuple[rbac.Binding, ...] | None = None) -> Document:
    """Return a resource as a document. `bindings` are those of an mcptoken, which another actor keeps."""
    kind = KINDS[kind_name]
    source = getattr(item, "spec", item)
    facts = {name: getattr(item, name) for name in type(item).model_fields if name != "spec"}
    members: Document = {"kind": kind.name}
    for key, member in _in_order(kind):
        if member in NOT_SHOWN or not hasattr(source, member):
            continue
        facts.pop(member, None)
        value = nested.shown(getattr(source, member))
        if member == "name" or value not in (None, "", [], {}, kind.spec.model_fields[member].default):
            members[key] = value
    if bindings is not None:
        members[kind.key("bindings")] = nested.shown(bindings)
    members = kind.show(item, members)
    status = {("state" if name == "status" else camel(name)): nested.shown(fact) for name, fact in facts.items()}
    status = {name: fact for name, fact in status.items() if fact is not None}
    return members | ({"status": status} if status else {})


def _in_order(kind: Kind) -> list[tuple[str, str]]:
    """Return keys and members, the name first."""
    return sorted(kind.keys.items(), key=lambda pair: pair[1] != "name")


def read(found: YamlDocument) -> Manifest:
    """Read a document. Raises `CliError` that names file, line and what was expected."""
    data = found.data
    if not isinstance(data, dict):
        raise found.error((), "a document is a mapping that begins with kind: and name:")
    name = data.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise found.error(("kind",) if name else (), f"must be one of {', '.join(KINDS)}")
    members = {key: value for key, value in data.items() if key not in ("kind", "status") and value is not None}
    members = kind.read(found, members)
    known = kind.keys
    for key in members:
        if key not in known and key not in kind.hidden:
            raise found.error((key,), f"no such field of a {kind.name}: there are {', '.join(known)}")
    try:
        named = {
            known.get(key, key): nested.read(kind.shape(key), value, found, (key,)) for key, value in members.items()
        }
        spec = kind.spec.model_validate_json(orjson.dumps(named), strict=True, extra="forbid")
    except (TypeError, orjson.JSONEncodeError) as error:
        raise found.error((), "keys are texts") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = _place(kind, fault["loc"])
        raise found.error(path, _expected(fault["type"], fault["msg"])) from error
    return Manifest(kind, spec, found)


def _place(kind: Kind, location: tuple[str | int, ...]) -> Path:
    """Return where in a document it is what the validator found at a location."""
    if not location:
        return ()
    key = kind.key(str(location[0]))
    return (key, *nested.place(kind.shape(key), location[1:]))


EXPECTED = {
    "extra_forbidden": "no such field",
    "string_type": "must be a text (write it in quotes)",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "missing": "is missing",
}


def _expected(kind: str, text: str) -> str:
    return EXPECTED.get(kind) or humane(text)


def read_all(documents: list[YamlDocument]) -> list[Manifest]:
    """Read documents. Raises `CliError` for the first that is wrong, or that describes what another one does."""
    seen: dict[Ref, Manifest] = {}
    for each in documents:
        manifest = read(each)
        other = seen.setdefault(manifest.ref, manifest)
        if other is not manifest:
            where = f"{other.source.source}, line {other.source.line(())}"
            raise each.error(("name",), f"{manifest.ref} is described in {where} already")
    return list(seen.values())


__all__ = ["KINDS", "CliError", "Document", "Kind", "Manifest", "camel", "document", "read", "read_all"]
