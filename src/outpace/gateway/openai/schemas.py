"""Limits on JSON schemas, checked in linear time before an engine compiles one; nothing is ever fetched."""

import re
from collections.abc import Iterator

from outpace.values.errors import InvalidInput

MAX_DEPTH = 32
MAX_NODES = 2_000
MAX_ENUM = 500
MAX_COUNT = 10_000
MAX_PATTERN = 256

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
# A repeated group that holds a repetition: the shape of patterns that explode.
_NESTED_REPEAT = re.compile(r"\([^()]*[*+}][^()]*\)\s*[*+{]")


def check_schema(schema: object, name: str) -> None:
    """Raise InvalidInput when the schema is no object, too large, too deep, recursive, remote or explosive."""
    if schema is None:
        return
    if not isinstance(schema, dict):
        raise InvalidInput(name, "must be a JSON schema object")
    for count, (depth, node) in enumerate(_nodes(schema), start=1):
        if depth > MAX_DEPTH:
            raise InvalidInput(name, f"is nested deeper than {MAX_DEPTH} levels")
        if count > MAX_NODES:
            raise InvalidInput(name, f"has more than {MAX_NODES} parts")
        _check_node(node, name)
    _check_references(schema, name)


def _nodes(schema: object) -> Iterator[tuple[int, dict[str, object]]]:
    waiting: list[tuple[int, object]] = [(0, schema)]
    while waiting:
        depth, part = waiting.pop()
        if isinstance(part, dict):
            yield depth, part
            waiting.extend((depth + 1, value) for value in part.values())
        elif isinstance(part, list):
            # Lists beyond the limit are refused by their key before they are walked.
            waiting.extend((depth + 1, value) for value in part[: MAX_NODES + 1])


def _check_node(node: dict[str, object], name: str) -> None:
    choices = node.get("enum")
    if isinstance(choices, list) and len(choices) > MAX_ENUM:
        raise InvalidInput(name, f"an enum has {len(choices)} values, at most {MAX_ENUM} are allowed")
    for key in _COUNTS:
        value = node.get(key)
        if isinstance(value, int | float) and not 0 <= value <= MAX_COUNT:
            raise InvalidInput(name, f"{key} must be between 0 and {MAX_COUNT}")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        _check_pattern(pattern, name)
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise InvalidInput(name, "$ref must point into the same schema (`#/…`); nothing is fetched")


def _check_pattern(pattern: str, name: str) -> None:
    if len(pattern) > MAX_PATTERN:
        raise InvalidInput(name, f"a pattern is longer than {MAX_PATTERN} characters")
    if _NESTED_REPEAT.search(pattern):
        raise InvalidInput(name, "a pattern repeats a repetition, which can take for ever")
    repeats = [int(number) for number in re.findall(r"\{\s*\d*\s*,?\s*(\d{1,9})\s*\}", pattern)]
    if any(repeat > MAX_COUNT for repeat in repeats):
        raise InvalidInput(name, f"a pattern repeats more than {MAX_COUNT} times")


def _check_references(schema: dict[str, object], name: str) -> None:
    """A reference that leads back to where it stands would make a grammar without end."""
    for _, node in _nodes(schema):
        seen: set[str] = set()
        target: object = node
        while isinstance(target, dict) and isinstance(target.get("$ref"), str):
            reference = str(target["$ref"])
            if reference in seen or reference == "#":
                raise InvalidInput(name, f"$ref {reference!r} leads back to itself")
            seen.add(reference)
            target = _resolve(schema, reference)
            if target is None:
                raise InvalidInput(name, f"$ref {reference!r} points to nothing")


def _resolve(schema: dict[str, object], reference: str) -> object:
    target: object = schema
    for word in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(target, dict):
            return None
        target = target.get(word.replace("~1", "/").replace("~0", "~"))
    return target
