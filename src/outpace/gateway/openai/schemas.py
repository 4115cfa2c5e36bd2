"""Limits on JSON schemas, checked in linear time before an engine compiles one; nothing is ever fetched."""

from collections.abc import Iterator
from typing import Any

from outpace.gateway.openai.patterns import check_pattern
from outpace.values.errors import InvalidInput

Node = dict[str, Any]

MAX_DEPTH = 32
MAX_NODES = 4_000
MAX_ENUM = 1_000
MAX_COUNT = 10_000

_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
# Keywords that apply to the same value as the schema they stand in: a cycle through them alone never ends.
_SAME_VALUE_LISTS = ("allOf", "anyOf", "oneOf")
_SAME_VALUE = ("not", "if", "then", "else")


def check_schema(schema: object, name: str) -> None:
    """Raise InvalidInput when the schema is no object, too large, too deep, endless, remote or explosive.

    A schema may contain itself through a property or an item, as trees do.
    """
    if schema is None:
        return
    if not isinstance(schema, dict):
        raise InvalidInput(name, "must be a JSON schema object")
    num_nodes = 0
    has_references = False
    for depth, node in _nodes(schema):
        if depth > MAX_DEPTH:
            raise InvalidInput(name, f"is nested deeper than {MAX_DEPTH} levels; flatten it")
        num_nodes += len(node) + 1
        if num_nodes > MAX_NODES:
            raise InvalidInput(name, f"has more than {MAX_NODES} parts; make it smaller")
        if isinstance(node, dict):
            _check_node(node, name)
            has_references = has_references or "$ref" in node
    if has_references:
        _check_references(schema, name)


def _nodes(schema: Node) -> Iterator[tuple[int, Node | list[Any]]]:
    """Objects and lists with their depth; the caller stops at the limits, so no more is walked than they allow."""
    waiting: list[tuple[int, Node | list[Any]]] = [(1, schema)]
    while waiting:
        depth, part = waiting.pop()
        yield depth, part
        inner = part.values() if isinstance(part, dict) else part
        waiting.extend((depth + 1, value) for value in inner if isinstance(value, dict | list))


def _check_node(node: Node, name: str) -> None:
    choices = node.get("enum")
    if isinstance(choices, list) and len(choices) > MAX_ENUM:
        raise InvalidInput(name, f"an enum has {len(choices)} values, at most {MAX_ENUM} are allowed")
    for key in _COUNTS:
        value = node.get(key)
        if isinstance(value, int | float) and not 0 <= value <= MAX_COUNT:
            raise InvalidInput(name, f"{key} must be between 0 and {MAX_COUNT}")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        check_pattern(pattern, name)
    named_by_pattern = node.get("patternProperties")
    for pattern in named_by_pattern if isinstance(named_by_pattern, dict) else ():
        check_pattern(pattern, name)
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise InvalidInput(name, "$ref must point into the same schema (`#/…`); nothing is fetched")
    for key in ("$dynamicRef", "$recursiveRef"):
        if isinstance(node.get(key), str):
            raise InvalidInput(name, f"{key} is not supported; use $ref")


def _check_references(schema: Node, name: str) -> None:
    """Look for a way from a schema back to itself without entering a property or an item (depth-first, iterative)."""
    settled: set[int] = set()
    for _, start in _nodes(schema):
        if not isinstance(start, dict) or id(start) in settled:
            continue
        path: set[int] = set()
        waiting: list[tuple[Node, bool]] = [(start, False)]
        while waiting:
            node, is_done = waiting.pop()
            if is_done:
                path.discard(id(node))
                settled.add(id(node))
                continue
            if id(node) in path:
                raise InvalidInput(name, "a $ref leads back to itself without end")
            if id(node) in settled:
                continue
            path.add(id(node))
            waiting.append((node, True))
            waiting.extend((each, False) for each in _same_value(schema, node, name))


def _same_value(schema: Node, node: Node, name: str) -> Iterator[Node]:
    for key in _SAME_VALUE_LISTS:
        options = node.get(key)
        if isinstance(options, list):
            yield from (option for option in options if isinstance(option, dict))
    for key in _SAME_VALUE:
        if isinstance(node.get(key), dict):
            yield node[key]
    reference = node.get("$ref")
    if isinstance(reference, str):
        target = _resolve(schema, reference)
        if target is None:
            raise InvalidInput(name, f"$ref {reference[:64]!r} points to nothing")
        if isinstance(target, dict):
            yield target


def _resolve(schema: Node, reference: str) -> object:
    if reference != "#" and not reference.startswith("#/"):
        return None
    target: object = schema
    for word in reference.removeprefix("#").split("/")[1:]:
        key = word.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target.get(key)
        elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(target):
            target = target[int(key[:9])]
        else:
            return None
    return target
