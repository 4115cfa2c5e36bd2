"""Texts that people write, as plain values: YAML or JSON, small, without aliases, every key once."""

from typing import Any

import yaml

from outpace.values.errors import InvalidInput, RequestTooLarge
from outpace.values.units import KIB

LARGEST_BYTES = 64 * KIB
_DEEPEST = 8
_OPENING = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSING = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def read_document(text: str) -> dict[str, Any]:
    """The table in a deployment file. Raises InvalidInput with the line, RequestTooLarge."""
    if len(text.encode(errors="replace")) > LARGEST_BYTES:
        raise RequestTooLarge(f"A deployment file has at most {LARGEST_BYTES // KIB} KiB.")
    try:
        _check_shape(text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _check_keys(node)
            document = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InvalidInput(None, f"not YAML: {_first_line(error)}") from error
    except (ValueError, OverflowError) as error:
        # Dates such as 2026-99-99 and numbers beyond what Python converts.
        raise InvalidInput(None, f"a value cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput(None, "a deployment file is a table that starts with `name:` and `model:`")
    return document


def _check_shape(text: str) -> None:
    """Aliases and depth, event by event, before anything is built from them."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InvalidInput(None, f"{_where(event)}: anchors and aliases (& and *) are not read here")
        depth += isinstance(event, _OPENING) - isinstance(event, _CLOSING)
        if depth > _DEEPEST:
            raise InvalidInput(None, f"{_where(event)}: nested deeper than {_DEEPEST} levels")


def _check_keys(node: yaml.Node | None) -> None:
    """Every key of a table is a text and is there once: of two, one would be lost silently."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise InvalidInput(None, f"line {key.start_mark.line + 1}: a key must be a text")
        if key.value in seen:
            raise InvalidInput(key.value, f"is there twice, again in line {key.start_mark.line + 1}")
        seen.add(key.value)
        _check_keys(value)


def _where(event: yaml.Event) -> str:
    mark = event.start_mark
    return f"line {mark.line + 1}" if mark else "somewhere"


def _first_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())[:300]
