"""YAML as the CLI writes it: texts of several lines as blocks, which people can read and edit."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dumped(value: Any) -> str:
    """Return a value as YAML, members in their order."""
    # The class is a SafeDumper: plain data is all that it writes.
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
