"""YAML as operators write it: many documents a text, each value with its line, no surprises.

Only plain data (YAML 1.1, "safe"): no tags, no merge keys, no key twice, and dates stay texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from mcpctl.cli.errors import USAGE, CliError

MOST_NODES = 200_000
"""Values in one text at the most: aliases of aliases could make it endless."""

PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlDocument:
    """One document: its data, and the line (from 1) of each value by its path."""

    source: str
    data: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """Return the line of a value, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path, text: str) -> CliError:
        """Return the error that names file, line and member."""
        where = ".".join(str(step) for step in path)
        return CliError(f"{self.source}, line {self.line(path)}: {f'{where}: ' if where else ''}{text}", USAGE)


class _Loader(yaml.SafeLoader):
    """The safe loader without timestamps: what looks like a date is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, source: str) -> Iterator[YamlDocument]:
    """Yield the documents of a text that are not empty. Raises `CliError` with the line of what cannot be read."""
    try:
        loader = _Loader(text)
        reader = _Reader(loader, source)
        while loader.check_node() and (node := loader.get_node()) is not None:
            lines: dict[Path, int] = {}
            data = reader.read(node, (), lines)
            if data is not None:
                yield YamlDocument(source, data, lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise CliError(f"{source}{place}: no valid YAML ({problem})", USAGE) from error
    except RecursionError as error:
        raise CliError(f"{source}: it is nested too deeply", USAGE) from error


class _Reader:
    def __init__(self, loader: _Loader, source: str) -> None:
        self._loader, self._source = loader, source
        self._left = MOST_NODES

    def read(self, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, f"more than {MOST_NODES} values")
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN:
            raise self._error(node, f"{node.tag} cannot be read: only plain data is taken")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, lines)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index), lines) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self._error(node, f"{node.value!r} cannot be read: only plain data is taken") from error

    def _mapping(self, node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.read(key_node, (*path, "(key)"), {})
            if not isinstance(key, str):
                raise self._error(key_node, "a key must be a text (write it in quotes)")
            if key in found:
                raise self._error(key_node, f"{key} comes twice")
            lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self.read(value_node, (*path, key), lines)
        return found

    def _error(self, node: yaml.Node, text: str) -> CliError:
        return CliError(f"{self._source}, line {node.start_mark.line + 1}: {text}", USAGE)
