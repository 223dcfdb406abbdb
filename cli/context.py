"""Where the CLI talks to, and as whom: named contexts in one file that only its owner may read."""

import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml
from platformdirs import user_config_path

from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.private_file import read_private, write_private

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"


@dataclass(frozen=True)
class Context:
    """One installation as one user sees it. `data` is the folder of the `mcpctl up` that wrote it, if one did."""

    nats_url: str = DEFAULT_NATS_URL
    gateway_url: str | None = None
    user: str | None = None
    bearer: str | None = field(default=None, repr=False)
    data: str | None = None

    @classmethod
    def read(cls, value: Any) -> Self:
        """Return a context of what the file holds; unknown members are left out. Raises `TypeError` for no context."""
        if not isinstance(value, dict):
            raise TypeError("a context is a mapping")
        known = {f.name: value[f.name] for f in fields(cls) if value.get(f.name) is not None}
        if not all(isinstance(v, str) for v in known.values()):
            raise TypeError("the members of a context are texts")
        return cls(**known)

    def members(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Config:
    """The file: contexts by name, and the one that is meant where none is named."""

    path: Path
    contexts: dict[str, Context]
    current: str | None

    @classmethod
    def load(cls) -> Self:
        """Read the file named by `MCPCTL_CONFIG`, or the user's own. Raises `CliError` where it cannot be used."""
        path = Path(os.environ.get("MCPCTL_CONFIG") or user_config_path("mcpctl") / "config.yaml").expanduser()
        text = read_private(path)
        try:
            whole = yaml.safe_load(text or "") or {}
            contexts = {str(name): Context.read(value) for name, value in (whole.get("contexts") or {}).items()}
            current = whole.get("current")
        except (yaml.YAMLError, TypeError, AttributeError) as error:
            raise CliError(f"{path} is not a valid configuration: mend it or move it away", USAGE) from error
        return cls(path, contexts, str(current) if current is not None else None)

    def save(self) -> None:
        contexts = {name: context.members() for name, context in self.contexts.items()}
        write_private(self.path, yaml.safe_dump({"current": self.current, "contexts": contexts}, sort_keys=False))

    def chosen(self, name: str | None) -> str | None:
        """Return the name of the context that is meant: `--context`, `MCPCTL_CONTEXT`, or the current one."""
        return name or os.environ.get("MCPCTL_CONTEXT") or self.current

    def get(self, name: str | None = None) -> tuple[str, Context]:
        """Return the context that is meant. Raises `CliError` where there is none."""
        chosen = self.chosen(name)
        if chosen is None:
            raise CliError(
                "no context yet: start everything with mcpctl up, or run mcpctl login --user NAME --nats-url URL"
            )
        if chosen not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise CliError(f'context "{chosen}" not found in {self.path} (there is: {known})')
        return chosen, with_environment(self.contexts[chosen])


def with_environment(context: Context) -> Context:
    """Return the context with `MCPCTL_NATS_URL` in place of its own URL, where that is set."""
    url = os.environ.get("MCPCTL_NATS_URL")
    return replace(context, nats_url=url) if url else context
