"""msgspec's findings in a user's words: which field, what it must be, and for choices which there are."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import inspect

from outpace.values.errors import InvalidInput

_PLACE = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$", re.DOTALL)
_STEP = re.compile(r"([^.\[\]]+)|\[(?:\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_RANGE = re.compile(r"Expected `(?:int|float)` (<=|>=|<|>) (\S+?)(?:\.0)?$")
_LENGTH = re.compile(r"Expected `(\w+)` of length (<=|>=) (\d+)")
_TYPE = re.compile(r"Expected `(.+)`, got `(\w+)`")
_PATTERN = re.compile(r"Expected `str` matching regex '\^?(.*?)(?:\\\\Z)?'$")
_BOUNDS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}
_UNITS = {"str": "characters", "array": "items", "object": "entries"}
_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "a string",
}
_LONGEST = 200
# A key whose value was being read when the JSON broke.
_LAST_KEY = re.compile(rb'"(\w{1,64})"\s*:\s*-?$')
_BYTE = re.compile(r"\(byte (\d+)\)")
_LOOK_BACK_BYTES = 128


def wrong_value(problem: str, kind: type) -> InvalidInput:
    """The refusal for a message of msgspec's about a request of this kind; values are not repeated in it."""
    place = _PLACE.search(problem)
    where = place.group(1)[:_LONGEST].removesuffix("[...]") if place else ""
    what = _PLACE.sub("", problem)
    if unknown := _UNKNOWN.match(what):
        name = _joined(where, unknown.group(1)[:_LONGEST])
        return InvalidInput(name, "is not a field that is known here; leave it out")
    if missing := _MISSING.match(what):
        return InvalidInput(_joined(where, missing.group(1)), "is required")
    if not where:
        return InvalidInput(None, f"The body {_explained(what, kind, where)}.")
    return InvalidInput(where, _explained(what, kind, where))


def not_json(problem: str, raw: bytes) -> InvalidInput:
    """The refusal of a body that is no JSON; names the field when the place shows it, as with `NaN`."""
    at = _BYTE.search(problem)
    key = None
    if at is not None:
        end = int(at.group(1))
        key = _LAST_KEY.search(raw[max(0, end - _LOOK_BACK_BYTES) : end])
    if key is not None:
        return InvalidInput(
            key.group(1).decode("ascii", "replace"), "is no JSON value (NaN and Infinity are none)"
        )
    return InvalidInput(None, f"The body is not JSON in UTF-8: {problem[:_LONGEST]}")


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _explained(what: str, kind: type, where: str) -> str:
    if what.startswith(("Invalid enum value", "Invalid value")):
        return f"must be one of {', '.join(_choices(kind, where))}"
    if limit := _RANGE.match(what):
        return f"must be {_BOUNDS[limit.group(1)]} {limit.group(2)}"
    if length := _LENGTH.match(what):
        if length.group(2, 3) == (">=", "1"):
            return "must not be empty"
        bound, unit = _BOUNDS[length.group(2)], _UNITS.get(length.group(1), "parts")
        return f"must have {bound} {length.group(3)} {unit}"
    if mismatch := _TYPE.match(what):
        if mismatch.group(2) == "float":
            return "must be a whole number"
        wanted = " or ".join(_TYPES.get(name, name) for name in mismatch.group(1).split(" | "))
        return f"must be {wanted}, not {_TYPES.get(mismatch.group(2), mismatch.group(2))}"
    if pattern := _PATTERN.match(what):
        return f"must match {pattern.group(1)}"
    if "out of range" in what:
        return "is out of range"
    return f"is wrong: {what[:1].lower()}{what[1:_LONGEST]}"


@lru_cache(maxsize=256)
def _choices(kind: type, where: str) -> tuple[str, ...]:
    """Literal values and tags that the types allow at a place such as `messages[0].role`."""
    here = [_type_info(kind)]
    tags: Iterable[str] = ()
    for step in _STEP.finditer(where):
        here = list(_flat(here))
        name = step.group(1)
        tags = [
            str(each.tag) for each in here if isinstance(each, inspect.StructType) and each.tag_field == name
        ]
        here = list(_next(here, name))
    literals = [
        str(value) for each in _flat(here) if isinstance(each, inspect.LiteralType) for value in each.values
    ]
    return tuple(sorted({*tags, *literals}))


@lru_cache(maxsize=8)
def _type_info(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _flat(types: Iterable[inspect.Type]) -> Iterator[inspect.Type]:
    for each in types:
        if isinstance(each, inspect.UnionType):
            yield from _flat(each.types)
        elif isinstance(each, inspect.Metadata):
            yield from _flat([each.type])
        else:
            yield each


def _next(types: Iterable[inspect.Type], name: str | None) -> Iterator[inspect.Type]:
    for each in types:
        if isinstance(each, inspect.StructType) and name is not None:
            yield from (field.type for field in each.fields if field.encode_name == name)
        elif isinstance(each, inspect.ListType) and name is None:
            yield each.item_type
        elif isinstance(each, inspect.DictType) and name is None:
            yield each.value_type
