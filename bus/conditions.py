"""Conditions on the arguments of a tool call: a small closed set, so that what they allow can be compared."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, Self, TypeGuard

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from mcpctl.bus.contract import Message
from mcpctl.bus.globs import demand_matching, holds_all_names


def _scalar(value: object) -> object:
    if not isinstance(value, str | bool | int | float):
        raise ValueError("write a text, a number, true or false")  # noqa: TRY004 - pydantic lets a TypeError through
    return _finite(value)


def _number(value: object) -> object:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError("write a number")
    return _finite(value)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number must be finite")
    return value


def _scalars(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("write a list of values")  # noqa: TRY004 - as above
    return tuple(_scalar(each) for each in value)


def _is_none(value: object) -> bool:
    return value is None


# What is before the union tells what is wrong in one line; the union would tell it once for each of its types.
Scalar = StrictStr | StrictBool | StrictInt | StrictFloat
Equal = Annotated[Scalar | None, BeforeValidator(lambda value: value if value is None else _scalar(value))]
OneOf = Annotated[tuple[Scalar, ...] | None, BeforeValidator(_scalars)]
Number = Annotated[StrictInt | StrictFloat | None, BeforeValidator(_number)]

READ_BYTES = 262_144
"""Bytes of a call's arguments on which conditions are tested at the most: reading them keeps a router busy."""

MOST = 16
"""Conditions of one binding."""

GLOB_CHARACTERS = 4096
"""Characters of a text that a glob fits at the most: a longer one would keep a router busy, once for each glob."""

_ASTRAY = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|\Z)|[\x00-\x1f\x7f]")

ArgumentPath = Annotated[str, Field(max_length=200, pattern=r"^[^.\s\x00-\x1f]+(\.[^.\s\x00-\x1f]+){0,7}$")]
"""The name of an argument; dots lead into objects."""


class UnreadableArguments(ValueError):
    """The arguments of a call are no object, or a server may read something else in them than was checked."""


class Condition(Message):
    """What the value of an argument must be: one of `equals`, `in`, `glob`, or bounds (`min`, `max`, or both).

    A value of another JSON type never fits, nor does an argument that is not given.
    """

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    equals: Equal = Field(None, exclude_if=_is_none)
    one_of: OneOf = Field(None, alias="in", min_length=1, max_length=200, exclude_if=_is_none)
    glob: Annotated[str, AfterValidator(demand_matching)] | None = Field(
        None, min_length=1, max_length=500, exclude_if=_is_none
    )
    min: Number = Field(None, exclude_if=_is_none)
    max: Number = Field(None, exclude_if=_is_none)

    @model_validator(mode="before")
    @classmethod
    def _is_an_object(cls, value: object) -> object:
        if not isinstance(value, dict | cls):
            raise ValueError('write a condition, for example {"equals": "x"}')  # noqa: TRY004 - as above
        return value

    @model_validator(mode="after")
    def _is_one_test(self) -> Self:
        bounds = self.min is not None or self.max is not None
        if [self.equals is not None, self.one_of is not None, self.glob is not None, bounds].count(True) != 1:
            raise ValueError("a condition is one of equals, in, glob, or bounds (min, max)")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is greater than max: no value would fit")
        return self

    @property
    def values(self) -> tuple[Scalar, ...] | None:
        """The values that fit, where they can be counted."""
        if self.equals is not None:
            return (self.equals,)
        return (self.min,) if self.min is not None and self.min == self.max else self.one_of

    def fits(self, value: object) -> bool:
        """Tell whether a value is as it must be."""
        if self.values is not None:
            return any(_same(value, wanted) for wanted in self.values)
        if self.glob is not None:
            return _may_be_globbed(value) and fnmatchcase(value, self.glob)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def covers(self, other: "Condition") -> bool:
        """Tell whether whatever fits `other` fits this too. Never says yes where it is not certain."""
        if other.values is not None:
            return all(self.fits(value) for value in other.values)
        if self.glob is not None and other.glob is not None:
            return holds_all_names(self.glob, other.glob)
        if self.values is not None or self.glob is not None or other.glob is not None:
            return False
        low = self.min is None or (other.min is not None and other.min >= self.min)
        return low and (self.max is None or (other.max is not None and other.max <= self.max))

    def __eq__(self, other: object) -> bool:
        # By the text: Python takes true, 1 and 1.0 for the same.
        return isinstance(other, Condition) and self.model_dump_json() == other.model_dump_json()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def __str__(self) -> str:
        if self.values is not None:
            texts = [json.dumps(value, ensure_ascii=False) for value in self.values]
            return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"
        if self.glob is not None:
            return f"like {self.glob}"
        if self.min is None or self.max is None:
            return f"at most {self.max}" if self.min is None else f"at least {self.min}"
        return f"from {self.min} to {self.max}"


def _together(conditions: dict[str, Condition]) -> dict[str, Condition]:
    """Raise `ValueError` for two conditions that no arguments can fit both."""
    for one, other in combinations(conditions, 2):
        for step, its in zip(one.split("."), other.split("."), strict=False):
            if step == its:
                continue
            if step.casefold() == its.casefold():  # see `read_arguments`
                raise ValueError(f"conditions on {one} and {other}: arguments that differ only in case are refused")
            break
        else:
            raise ValueError(f"conditions on {one} and {other}: no value is both an object and one that can be tested")
    return conditions


Conditions = Annotated[dict[ArgumentPath, Condition], Field(max_length=MOST), AfterValidator(_together)]
"""Conditions by the argument that each of them is about; all must hold."""


def _same(value: object, wanted: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, str) or isinstance(wanted, str):
        return value == wanted and isinstance(value, str)
    return value == wanted


def _may_be_globbed(value: object) -> TypeGuard[str]:
    """Tell whether a value is a text of a fair length that means what it looks like.

    A path that climbs does not, nor does a text with control characters.
    """
    return isinstance(value, str) and len(value) <= GLOB_CHARACTERS and _ASTRAY.search(value) is None


def unmet(conditions: Mapping[str, Condition], arguments: Mapping[str, Any]) -> str | None:
    """Return the first argument that is not as it must be, and how it must be; None where all conditions hold."""
    for path, condition in conditions.items():
        found, value = _at(arguments, path)
        if not found or not condition.fits(value):
            return f"argument {path} must be {condition}"
    return None


def _at(arguments: Mapping[str, Any], path: str) -> tuple[bool, object]:
    place: object = arguments
    steps = path.split(".")
    for number, step in enumerate(steps):
        if not isinstance(place, Mapping) or step not in place or _is_named_whole(place, steps[number:]):
            return False, None
        place = place[step]
    return True, place


def _is_named_whole(place: Mapping[str, Any], steps: Sequence[str]) -> bool:
    """Tell whether an object also has a member whose name is several steps: `a.b` beside `a`, which a tool may read."""
    if len(steps) < 2:
        return False
    dotted = place.dotted if isinstance(place, _Object) else _dotted(place)
    return any(".".join(steps[:count]).casefold() in dotted for count in range(2, len(steps) + 1))


def _dotted(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names if "." in name)


class _Object(dict[str, Any]):
    """An object of the arguments of a call. Its names are looked through once, not for every condition."""

    @cached_property
    def dotted(self) -> frozenset[str]:
        """The names with a dot in them, in one case."""
        return _dotted(self)


def all_covered(own: Mapping[str, Condition], other: Mapping[str, Condition]) -> bool:
    """Tell whether arguments that fit all of `other` fit all of `own`."""
    return all(path in other and condition.covers(other[path]) for path, condition in own.items())


def read_arguments(text: bytes) -> dict[str, Any]:
    """Return the arguments of a call. Raises `UnreadableArguments`.

    Of two members whose names differ at most in their case, a server might take the first or the last, and of a number
    that is out of range it might make anything: what was checked must be what it reads.
    """
    if len(text) > READ_BYTES:
        raise UnreadableArguments(
            f"the arguments are longer than the {READ_BYTES} bytes on which conditions are tested"
        )
    try:
        found = json.loads(
            text or b"{}", object_pairs_hook=_unambiguous, parse_float=_in_range, parse_constant=_in_range
        )
    except UnreadableArguments:
        raise
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError
        raise UnreadableArguments("arguments is no JSON, or has a number or a nesting beyond measure") from error
    if not isinstance(found, dict):
        raise UnreadableArguments("arguments is not an object")
    return found


def _in_range(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise UnreadableArguments("a number in the arguments is out of range")
    return number


def _unambiguous(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found = _Object()
    seen: set[str] = set()
    for name, value in pairs:
        if name.casefold() in seen:
            shown = name[:100].encode(errors="replace").decode()
            raise UnreadableArguments(f"two arguments are called {shown}")
        seen.add(name.casefold())
        found[name] = value
    return found
