"""Shapes of known models, read from `architectures.toml`, found under any spelling that measurements use."""

import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

import msgspec

from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

# Endings that name a checkpoint's format, not another shape; longest first.
_FORMAT_ENDINGS = {
    "-nvfp4": "nvfp4",
    "-fp4": "nvfp4",
    "-mxfp4": "mxfp4",
    "-fp8-dynamic": "fp8",
    "-fp8": "fp8",
    "-awq": "int4-awq",
    "-gptq-int4": "int4-awq",
    "-w8a8": "int8",
    "-w4a16": "int4-awq",
    "-bf16": "bf16",
}
_ROLE_ENDINGS = ("-instruct", "-chat-hf", "-chat", "-hf", "-it", "-base", "-instruct-2507")


@dataclass(frozen=True)
class NamedModel:
    """A shape, and the weight format that the spelling of its name implies (empty when it says nothing)."""

    shape: Architecture
    implied_format: str


def architecture(name: str) -> Architecture:
    """The shape of a model under any known spelling. Raises InvalidInput with the nearest names."""
    return named_model(name).shape


def named_model(name: str) -> NamedModel:
    """Shape and implied format of a model name. Raises InvalidInput with the nearest names."""
    table = _by_spelling()
    plain, implied = _strip_format(_normal(name))
    for spelling in (_normal(name), plain, _strip_role(plain)):
        if spelling in table:
            shape = table[spelling]
            return NamedModel(shape, implied or shape.native_format)
    raise InvalidInput("model", f"{name!r} is not known; {_nearest(name)}")


@cache
def architectures() -> tuple[Architecture, ...]:
    """Every known shape, checked against what its publisher says."""
    text = files("outpace.planner").joinpath("architectures.toml").read_text(encoding="utf-8")
    shapes = tuple(
        msgspec.convert({"name": name, **fields}, Architecture)
        for name, fields in tomllib.loads(text).items()
    )
    for shape in shapes:
        shape.check()
    return shapes


@cache
def _by_spelling() -> dict[str, Architecture]:
    table = {}
    for shape in architectures():
        for spelling in (shape.name, *shape.aliases):
            table[_normal(spelling)] = shape
            table[_strip_role(_normal(spelling))] = shape
    return table


def _normal(name: str) -> str:
    bare = name.strip().lower().rsplit("/", 1)[-1]
    bare = re.sub(r"[\s_]+", "-", bare)
    return re.sub(r"^(meta-)?llama-?(\d)", r"llama-\2", bare)


def _strip_format(name: str) -> tuple[str, str]:
    for ending, implied in _FORMAT_ENDINGS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), implied
    return name, ""


def _strip_role(name: str) -> str:
    for ending in _ROLE_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _nearest(name: str) -> str:
    near = get_close_matches(_normal(name), _by_spelling(), n=3, cutoff=0.5)
    advice = "give the path of its config.json, of the folder that holds it, or of a GGUF file"
    return f"did you mean {', '.join(near)}? Otherwise {advice}" if near else advice
