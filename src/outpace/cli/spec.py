"""Deployment files: YAML in, the admin API's JSON out, wrong ones refused by name before anything is asked."""

from pathlib import Path
from typing import Any

import yaml

from outpace.catalogue.resolve import find_card, name_of_file
from outpace.control.specs import parse_spec
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput
from outpace.values.money import Price

_FILE_SUFFIXES = (".yaml", ".yml", ".json")
_LARGEST_FILE_BYTES = 1024 * 1024


class _StrictLoader(yaml.SafeLoader):
    """YAML without the habit of letting the second of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise InvalidInput(str(key), f"is given twice, again in line {key_node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def wanted_spec(word: str, changes: dict[str, object]) -> dict[str, Any]:
    """The body for the admin API out of a file's path, a GGUF's path, or a model's name. Raises InvalidInput.

    `changes` are options of the command line; None means not given.
    """
    body = _read_file(Path(word)) if word.lower().endswith(_FILE_SUFFIXES) else _of_model(word)
    body |= {field: value for field, value in changes.items() if value is not None}
    return body


def spec_of(body: dict[str, Any]) -> DeploymentSpec:
    """What control will make of the body, with the catalogue's price. Raises InvalidInput naming the field."""
    return parse_spec(body, _list_price)


def _list_price(model: str) -> Price | None:
    card = find_card(model)
    return card.price if card else None


def _of_model(word: str) -> dict[str, Any]:
    if word.lower().endswith(".gguf"):
        path = Path(word).expanduser().absolute()
        return {"name": name_of_file(path), "model": str(path)}
    return {"name": word, "model": word}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from None
    if len(raw) > _LARGEST_FILE_BYTES:
        raise InvalidInput(str(path), "is larger than 1 MiB, so it is no deployment file")
    try:
        # The loader is a SafeLoader: it makes plain values only.
        parsed = yaml.load(raw, Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(path), f"is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(parsed, dict) or not all(isinstance(key, str) for key in parsed):
        raise InvalidInput(str(path), "holds no mapping of names to values, such as `model: NAME`")
    return parsed
