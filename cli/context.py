"""Where the CLI talks to, and as whom: named contexts in one file that only its owner may read."""

import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml
from platformdirs import user_config_path

from mcpctl.bus.bearer import kind_of
from mcpctl.bus.http_head import Url
from mcpctl.bus.nats_url import checked_url, trust
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.private_file import locked, read_private, write_private

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
ENVIRONMENT = "(environment)"
"""The name of the context that `MCPCTL_NATS_URL` makes where there is no other."""


@dataclass(frozen=True)
class Context:
    """One installation as one user sees it. `data` is the folder of the `mcpctl up` that wrote it, if one did.

    `ca` is a PEM file with CAs: those alone are believed on the bus, and beside the system's at the gateway.
    `source` names the variable that the bearer comes from; it is None for a login session, and not in the file.
    """

    nats_url: str = DEFAULT_NATS_URL
    gateway_url: str | None = None
    user: str | None = None
    bearer: str | None = field(default=None, repr=False)
    data: str | None = None
    ca: str | None = None
    source: str | None = None

    @classmethod
    def read(cls, value: Any) -> Self:
        """Return a context of what the file holds; unknown members are left out. Raises `TypeError` for no context."""
        if not isinstance(value, dict):
            raise TypeError("a context is a mapping")
        known = {f.name: value[f.name] for f in fields(cls) if value.get(f.name) is not None and f.name != "source"}
        if not all(isinstance(v, str) for v in known.values()):
            raise TypeError("the members of a context are texts")
        return cls(**known)

    def members(self) -> dict[str, str]:
        """Return what the file holds."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "source"}

    def checked(self) -> Self:
        """Return this context. Raises `CliError` for a URL or CA file that cannot be used."""
        try:
            checked_url(self.nats_url)
            trust(self.ca)
            if self.gateway_url is not None:
                Url.parse(self.gateway_url)
        except ValueError as error:
            raise CliError(str(error), USAGE) from error
        return self


@dataclass
class Config:
    """The file: contexts by name, and the one that is meant where none is named."""

    path: Path
    contexts: dict[str, Context]
    current: str | None
    _loaded: tuple[dict[str, Context], str | None] = field(default_factory=lambda: ({}, None), repr=False)

    @classmethod
    def load(cls) -> Self:
        """Read the file named by `MCPCTL_CONFIG`, or the user's own. Raises `CliError` where it cannot be used."""
        path = Path(os.environ.get("MCPCTL_CONFIG") or user_config_path("mcpctl") / "config.yaml").expanduser()
        return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> Self:
        text = read_private(path)
        try:
            whole = yaml.safe_load(text or "") or {}
            contexts = {str(name): Context.read(value) for name, value in (whole.get("contexts") or {}).items()}
            current = whole.get("current")
        except (yaml.YAMLError, TypeError, AttributeError) as error:
            raise CliError(f"{path} is not a valid configuration: mend it or move it away", USAGE) from error
        current = str(current) if current is not None else None
        return cls(path, contexts, current, (dict(contexts), current))

    def save(self) -> None:
        """Write what was changed since it was read; what other commands wrote meanwhile stays. Raises `CliError`."""
        before, current_before = self._loaded
        with locked(self.path):
            now = self._read(self.path)
            contexts = now.contexts | {n: c for n, c in self.contexts.items() if before.get(n) != c}
            for name in before.keys() - self.contexts.keys():
                contexts.pop(name, None)
            current = self.current if self.current != current_before else now.current
            members = {name: context.members() for name, context in contexts.items()}
            write_private(self.path, yaml.safe_dump({"current": current, "contexts": members}, sort_keys=False))

    def chosen(self, name: str | None) -> str | None:
        """Return the name of the context that is meant: `--context`, `MCPCTL_CONTEXT`, or the current one."""
        return name or os.environ.get("MCPCTL_CONTEXT") or self.current

    def get(self, name: str | None = None) -> tuple[str, Context]:
        """Return the context that is meant, with what the environment says. Raises `CliError` where there is none."""
        chosen, context = self.stored(name)
        return chosen, with_bearer(context)

    def stored(self, name: str | None = None) -> tuple[str, Context]:
        """Return the context that is meant, with its own login session. Raises `CliError` where there is none."""
        chosen = self.chosen(name)
        if chosen is None and os.environ.get("MCPCTL_NATS_URL"):
            return ENVIRONMENT, with_environment(Context())
        if chosen is None:
            raise CliError(
                "no context yet: start everything with mcpctl up, or run mcpctl login --user NAME --nats-url URL"
            )
        return chosen, with_environment(self.named(chosen))

    def named(self, name: str) -> Context:
        """Return a context as the file has it. Raises `CliError` where there is none of that name."""
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise CliError(f'context "{name}" not found in {self.path} (there is: {known})')
        return self.contexts[name]


def with_environment(context: Context) -> Context:
    """Return the context with `MCPCTL_NATS_URL` and `MCPCTL_NATS_CA` in place of its own, where they are set."""
    url, ca = os.environ.get("MCPCTL_NATS_URL"), os.environ.get("MCPCTL_NATS_CA")
    return replace(context, nats_url=url or context.nats_url, ca=ca or context.ca)


def with_bearer(context: Context) -> Context:
    """Return the context with the bearer of `MCPCTL_TOKEN`, or of the file that `MCPCTL_TOKEN_FILE` names.

    An mcptoken is for agents, so it does not displace a login session. Raises `CliError` for a file that is not there
    or that others can read.
    """
    bearer, source = os.environ.get("MCPCTL_TOKEN", "").strip(), "$MCPCTL_TOKEN"
    file = os.environ.get("MCPCTL_TOKEN_FILE")
    if not bearer and file:
        bearer, source = _bearer_in(Path(file).expanduser()), f"$MCPCTL_TOKEN_FILE ({file})"
    if not bearer or (kind_of(bearer) == "pat" and context.bearer is not None):
        return context
    return replace(context, user=None, bearer=bearer, source=source)


def _bearer_in(file: Path) -> str:
    text = read_private(file)
    if text is None:
        raise CliError(f"MCPCTL_TOKEN_FILE names {file}, which is not there", USAGE)
    return text.strip()
