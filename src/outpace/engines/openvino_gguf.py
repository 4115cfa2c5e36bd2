"""Which GGUF files OpenVINO can read, told from their header before anything is converted."""

import importlib.util
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import msgspec

LIBRARY = "openvino_genai"


class _Reader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    architectures: tuple[str, ...]
    tensor_types: tuple[str, ...]
    source: str
    checked_on: str


def is_installed() -> bool:
    """The library is a package of this environment."""
    return importlib.util.find_spec(LIBRARY) is not None


def why_unreadable(architecture: str, tensor_types: Iterable[str]) -> str | None:
    """Why OpenVINO cannot read a file with these; None when it can."""
    reader = _reader()
    if architecture not in reader.architectures:
        return f"OpenVINO reads no GGUF of {architecture}; it reads {', '.join(reader.architectures)}"
    others = sorted(set(tensor_types) - set(reader.tensor_types))
    if others:
        return f"OpenVINO reads no {', '.join(others)}; it reads {', '.join(reader.tensor_types)}"
    return None


@cache
def _reader() -> _Reader:
    text = files("outpace.engines").joinpath("openvino_gguf.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["reader"], _Reader)
