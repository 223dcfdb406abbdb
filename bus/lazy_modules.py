"""Modules that are imported when they are first used, or not at all."""

import importlib
import sys
from types import ModuleType
from typing import Any


def import_lazily(name: str) -> None:
    """Let `import NAME` cost nothing before an attribute of it is read; what is loaded already stays.

    For what another library imports at its top and uses in a case that is rare here. Until then a module whose
    `__getattr__` (PEP 562) loads the real one stands for it. `importlib.util.LazyLoader` does not do: on Python 3.11
    the `import` statement itself reads `__spec__`, and so loads it.
    """
    if name in sys.modules:
        return
    standing_for = ModuleType(name)

    def load(attribute: str) -> Any:
        if sys.modules.get(name) is standing_for:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    standing_for.__dict__["__getattr__"] = load
    sys.modules[name] = standing_for


def import_without(name: str, unwanted: str) -> None:
    """Import a module as where `unwanted` is not installed, which it does without; others can import that all the same.

    What is loaded already stays.
    """
    if unwanted in sys.modules:
        return
    sys.modules[unwanted] = None  # type: ignore[assignment]  # "not there", to the import system
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[unwanted]
