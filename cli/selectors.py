"""Label selectors as kubectl has them: `app=shop,tier!=test,owner,!old`."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from mcpctl.bus.names import Labels
from mcpctl.cli.errors import USAGE, CliError

LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(Labels)


@dataclass(frozen=True)
class Requirement:
    """One term: a key, and the value that it must (or must not) have; None stands for any."""

    key: str
    value: str | None
    wanted: bool

    def fits(self, labels: Mapping[str, str]) -> bool:
        if self.value is None:
            return (self.key in labels) == self.wanted
        return (labels.get(self.key) == self.value) == self.wanted


@dataclass(frozen=True)
class Selector:
    """Terms that must all fit."""

    terms: tuple[Requirement, ...]

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Read a selector. Raises `CliError` where it is not one."""
        return cls(tuple(_term(term.strip()) for term in text.split(",")))

    def fits(self, labels: Mapping[str, str]) -> bool:
        return all(term.fits(labels) for term in self.terms)


def _term(text: str) -> Requirement:
    for sign, wanted in (("!=", False), ("==", True), ("=", True)):
        key, found, value = text.partition(sign)
        if found:
            return _checked(text, Requirement(key.strip(), value.strip(), wanted))
    return _checked(text, Requirement(text.removeprefix("!").strip(), None, not text.startswith("!")))


def _checked(text: str, term: Requirement) -> Requirement:
    """Return a term that a label could fit: `delete` and `--prune` go by it."""
    try:
        LABELS.validate_python({term.key: term.value or ""})
    except ValidationError as error:
        raise CliError(f"{text!r} is no label selector: write KEY=VALUE, KEY!=VALUE, KEY or !KEY", USAGE) from error
    return term
