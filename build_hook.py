"""Refuse to build a package from a tree whose links were lost (a zip download turns them into text files)."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LinksAreFolders(BuildHookInterface):  # type: ignore[type-arg]
    """Each part of the import package must be a real folder by the time it is packed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        for part in ("actors", "bus", "gateway", "cli"):
            folder = Path(self.root, "mcpctl", part)
            if not (folder / "__init__.py").is_file():
                raise RuntimeError(
                    f"{folder} is not a folder with the code in it: this tree lost its symbolic links "
                    "(a zip download does that). Get it with git clone, or from the sdist."
                )
