"""Specifications within specifications: how documents name their members, in camelCase at every depth.

What is in a mapping (headers, arguments) keeps the names that it has.
"""

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mcpctl.cli.yaml_documents import Path, YamlDocument

EMPTY: tuple[object, ...] = (None, "", (), [], {})


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def key_of(member: str, info: FieldInfo) -> str:
    """Return the key under which a document holds a member."""
    return info.alias or camel(member)


def bare(shape: Any) -> Any:
    """Return a type without annotations, and without the None that it may be."""
    while True:
        if get_origin(shape) is Annotated:
            shape = get_args(shape)[0]
        elif get_origin(shape) in (Union, UnionType):
            rest = [each for each in get_args(shape) if each is not NoneType]
            if len(rest) != 1:
                return shape
            shape = rest[0]
        else:
            return shape


def is_model(shape: Any) -> bool:
    return isinstance(shape, type) and issubclass(shape, BaseModel)


def members_of(model: type[BaseModel]) -> dict[str, tuple[str, Any]]:
    """Return the members of a model by their keys in a document: the name to validate by, and the type."""
    hints = get_type_hints(model, include_extras=True)
    return {key_of(name, info): (info.alias or name, bare(hints[name])) for name, info in model.model_fields.items()}


def below(shape: Any, step: str | int) -> Any:
    """Return the type of what a key or an index leads to, None where that is not known."""
    if is_model(shape):
        return members_of(shape).get(str(step), (None, None))[1]
    inner = get_args(shape)
    if get_origin(shape) in (dict, Mapping):
        return bare(inner[1])
    return bare(inner[0]) if get_origin(shape) in (tuple, list) else None


def steps(shape: Any, path: str) -> tuple[list[str], Any]:
    """Return the keys of a dotted path, and the type that it leads to; what follows a mapping is one key."""
    found: list[str] = []
    shape = bare(shape)
    while is_model(shape) and "." in path:
        key, _, path = path.partition(".")
        found.append(key)
        shape = below(shape, key)
    return [*found, path], below(shape, path)


def read(shape: Any, value: Any, document: YamlDocument, path: Path) -> Any:
    """Return a value of a document with the members' own names. Raises `CliError` for a key that is none."""
    shape = bare(shape)
    if isinstance(value, list):
        return [read(below(shape, 0), each, document, (*path, place)) for place, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if not is_model(shape):
        return {key: read(below(shape, key), each, document, (*path, key)) for key, each in value.items()}
    members = members_of(shape)
    for key in value:
        if key not in members:
            raise document.error((*path, key), f"no such field: there are {', '.join(members)}")
    return {members[key][0]: read(members[key][1], each, document, (*path, key)) for key, each in value.items()}


def place(shape: Any, location: tuple[str | int, ...]) -> Path:
    """Return where in a document it is what a validator found at a location."""
    shape = bare(shape)
    found: Path = ()
    for step in location:
        key: str | int = step
        if is_model(shape):
            key = next((key for key, (name, _) in members_of(shape).items() if name == step), step)
        found = (*found, key)
        shape = below(shape, key)
    return found


def shown(value: Any) -> Any:
    """Return a value as a document holds it; members that are empty by default and still are stay out."""
    if isinstance(value, BaseModel):
        kept = ((info, name, getattr(value, name)) for name, info in type(value).model_fields.items())
        return {key_of(name, info): shown(member) for info, name, member in kept if not _is_left_out(info, member)}
    if isinstance(value, Mapping):
        return {str(key): shown(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [shown(each) for each in value]
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_UTC_Z))


def _is_left_out(info: FieldInfo, value: object) -> bool:
    default = info.get_default(call_default_factory=True, validated_data={})
    return not isinstance(value, bool) and value in EMPTY and value == default
