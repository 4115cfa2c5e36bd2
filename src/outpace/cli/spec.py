"""Deployment files: YAML in, the admin API's JSON out, wrong ones refused by name before anything is asked."""

from pathlib import Path
from typing import Any

from outpace.catalogue.resolve import find_card, name_of_file
from outpace.control.documents import LARGEST_BYTES, read_document
from outpace.control.specs import parse_spec
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput
from outpace.values.money import Price

_FILE_SUFFIXES = (".yaml", ".yml", ".json")


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
            # One byte beyond the limit is enough to be refused for it.
            text = file.read(LARGEST_BYTES + 1).decode()
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(str(path), "is not UTF-8 text") from None
    try:
        document = read_document(text)
    except InvalidInput as refused:
        raise InvalidInput(str(path), str(refused)) from None
    model = document.get("model")
    if isinstance(model, str) and model.lower().endswith(".gguf"):
        # Control runs in another folder: a path is meant from where the file lies.
        document["model"] = str(path.absolute().parent / Path(model).expanduser())
    return document
