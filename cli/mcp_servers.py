"""The `mcpServers` JSON that every MCP client has, as resources of ours."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcpctl.bus.contracts.catalog import SECRET_MARK, SecretSpec, ServerSpec
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.session import checked

KEYS = ("mcpServers", "servers", "mcp_servers")
"""Where clients keep the servers: Claude, Cursor and most others; VS Code; a few."""

SECRET_WORDS = re.compile(r"key|token|secret|passw|auth|credential|cookie|bearer|session|private", re.IGNORECASE)
"""A header or variable with such a name is sealed."""

SECRET_VALUES = re.compile(
    r"(sk|pk|rk)[-_]\S{8}|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|AKIA[0-9A-Z]{12}|eyJ[\w-]{8}|mcpctl_\w+_"
    r"|(Bearer|Basic) |[a-z+]+://[^/\s:@]*:[^/\s@]+@|(?=.{0,60}\d)(?=.{0,60}[A-Za-z])[\w+=-]{32,}\Z",
)
"""A header or variable that begins so is sealed too: what issuers mark, URLs with a password, long random text."""

SECRET_WORD_OF_COMMAND = re.compile(
    rf"--?[\w-]*({SECRET_WORDS.pattern})[\w-]*(=.|\Z)|[\w-]*({SECRET_WORDS.pattern})[\w-]*=.", re.IGNORECASE
)
"""Such a word of a command line says that it, or the next one, is a secret."""

KNOWN = frozenset({"command", "args", "env", "url", "serverUrl", "httpUrl", "type", "transport", "headers"})
IGNORED = frozenset(
    {"disabled", "autoApprove", "alwaysAllow", "timeout", "description", "name", "icon", "gallery", "version", "cwd"}
)


@dataclass
class Taken:
    """What a client's file becomes.

    `renamed` are names that could not stay, `left_out` is what we do not have, `in_clear` are servers with what looks
    like a secret where none can be sealed.
    """

    servers: list[ServerSpec] = field(default_factory=list)
    secrets: list[SecretSpec] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    in_clear: list[str] = field(default_factory=list)
    plain: frozenset[str] = frozenset()
    """Headers and variables that stay in clear, whatever they look like."""


def looks_secret(name: str, value: str) -> bool:
    """Tell whether a header or variable seems to hold a secret in clear."""
    clear = bool(value) and not value.startswith(SECRET_MARK)
    return clear and bool(SECRET_WORDS.search(name) or SECRET_VALUES.match(value))


def refuse_secret(spec: ServerSpec, plain: Collection[str]) -> None:
    """Raise `CliError` where a server would hold what looks like a secret in clear; `plain` are names that may."""
    for member, value in (spec.headers | spec.env).items():
        if member not in plain and looks_secret(member, value):
            raise CliError(
                f"{member} of server {spec.name} looks like a secret in clear: seal it with mcpctl create secret NAME, "
                f"then write {SECRET_MARK}NAME in its place, or say --plain {member}",
                USAGE,
            )


def take(data: Any, source: str, *, prefix: str = "", plain: Collection[str] = ()) -> Taken:
    """Read a client's file. Raises `CliError` that says which server is wrong, never with a value.

    `prefix` goes before the names of the servers; `plain` are headers and variables that are not to be sealed.
    """
    if isinstance(data, dict) and isinstance(data.get("mcp"), dict):
        data = data["mcp"]
    found = next((data[key] for key in KEYS if isinstance(data, dict) and isinstance(data.get(key), dict)), None)
    if found is None:
        raise CliError(f"{source}: there is no mcpServers object in it", USAGE)
    if not found:
        raise CliError(f"{source}: mcpServers is empty", USAGE)
    taken = Taken(plain=frozenset(plain))
    names: dict[str, str] = {}
    for original, entry in found.items():
        name = as_label(original) and as_label(prefix + original)
        if not name:
            raise CliError(f"{source}: no name can be made of {original!r}: rename it there", USAGE)
        if name in names:
            raise CliError(f"{source}: {names[name]!r} and {original!r} would both be called {name}: rename one", USAGE)
        names[name] = original
        if name != original:
            taken.renamed[original] = name
        _take_one(taken, name, entry, f"{source}: {original}")
    unused = taken.plain - {
        key for entry in found.values() for part in ("env", "headers") for key in entry.get(part) or ()
    }
    if unused:
        raise CliError(f"--plain names what is not in {source}: {', '.join(sorted(unused))}", USAGE)
    return taken


def as_label(name: str) -> str:
    """Return the RFC 1123 label nearest to a name."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name)
    return re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-")[:63].strip("-")


def _take_one(taken: Taken, name: str, entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise CliError(f"{where}: a server is an object", USAGE)
    unknown = set(entry) - KNOWN - IGNORED
    if unknown:
        raise CliError(f"{where}: not understood: {', '.join(sorted(unknown))}", USAGE)
    taken.left_out += [f"{name}: {key}" for key in sorted(entry.keys() & IGNORED) if key not in ("name", "description")]
    url = next((entry[key] for key in ("url", "serverUrl", "httpUrl") if key in entry), None)
    kind = entry.get("type") or entry.get("transport")
    if kind == "sse":
        raise CliError(f"{where}: the old HTTP+SSE transport is not spoken here: use its Streamable HTTP URL", USAGE)
    members: dict[str, Any] = {
        "name": name,
        "description": _text(entry.get("description", ""), f"{where}: description"),
    }
    if len(name) > 20:
        members["prefix"] = name[:20].strip("-")
    if url is not None:
        if isinstance(url, str) and SECRET_WORDS.search(url.partition("?")[2]):
            taken.in_clear.append(f"{name}: its url")
        members |= {"url": _text(url, f"{where}: url"), "headers": _sealed(taken, name, entry, "headers", where)}
    else:
        command, args = entry.get("command"), entry.get("args", [])
        if not isinstance(args, list):
            raise CliError(f"{where}: args is a list", USAGE)
        words = [_text(word, f"{where}: command and args") for word in (command, *args)]
        if any(SECRET_WORD_OF_COMMAND.match(word) or SECRET_VALUES.match(word) for word in words[1:]):
            taken.in_clear.append(f"{name}: its arguments")
        members |= {"command": tuple(words), "env": _sealed(taken, name, entry, "env", where)}
    try:
        taken.servers.append(checked(ServerSpec, **members))
    except CliError as error:
        raise CliError(f"{where}: {error}", USAGE) from error


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise CliError(f"{where}: a text is expected", USAGE)
    return value


def _sealed(taken: Taken, server: str, entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """Return headers or variables; those that look like secrets are sealed and referred to."""
    values = entry.get(key) or {}
    if not isinstance(values, dict):
        raise CliError(f"{where}: {key} is an object", USAGE)
    found: dict[str, str] = {}
    for name, value in values.items():
        text = _text(value, f"{where}: {key}.{name}")
        if "${" in text:
            raise CliError(f"{where}: {key}.{name} refers to a variable of the client: put its value there", USAGE)
        if not text or name in taken.plain or not (SECRET_WORDS.search(name) or SECRET_VALUES.match(text)):
            found[name] = text
            continue
        secret = as_label(f"{server}-{name}")
        taken.secrets.append(checked(SecretSpec, name=secret, value=text))
        found[name] = f"{SECRET_MARK}{secret}"
    return found
