"""Number formats of weights and KV cache, read from `formats.toml`."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal, TypeVar

import msgspec

from outpace.values.errors import InvalidInput

Scope = Literal["all", "linear", "feed-forward", "experts"]
Format = TypeVar("Format", "WeightFormat", "KvFormat")
Multiply = Literal["32", "16", "fp8", "int8", "fp4", "gguf"]


class WeightFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How weights are stored and which arithmetic they run on."""

    name: str
    bits: float
    scope: Scope
    multiply: Multiply
    source: str
    rest_bits: float = 16.0
    aliases: tuple[str, ...] = ()


class KvFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How keys and values are stored; `bits` include scales."""

    name: str
    bits: float
    source: str
    aliases: tuple[str, ...] = ()


class _Tables(msgspec.Struct, frozen=True):
    weights: dict[str, WeightFormat]
    kv: dict[str, KvFormat]


def weight_format(name: str) -> WeightFormat:
    """The weight format of this name or alias. Raises InvalidInput listing the known ones."""
    return _lookup(_tables().weights, name, "weights_precision")


def kv_format(name: str) -> KvFormat:
    """The KV-cache format of this name or alias. Raises InvalidInput listing the known ones."""
    return _lookup(_tables().kv, name, "kv_precision")


def weight_formats() -> tuple[WeightFormat, ...]:
    """Every known weight format."""
    return tuple(_tables().weights.values())


def kv_formats() -> tuple[KvFormat, ...]:
    """Every known KV format."""
    return tuple(_tables().kv.values())


@cache
def _tables() -> _Tables:
    text = files("outpace.precision").joinpath("formats.toml").read_text(encoding="utf-8")
    parsed = tomllib.loads(text)
    for table in parsed.values():
        for name, fields in table.items():
            fields["name"] = name
    return msgspec.convert(parsed, _Tables)


def _lookup(table: dict[str, Format], name: str, param: str) -> Format:
    wanted = name.strip().lower()
    if wanted in table:
        return table[wanted]
    for found in table.values():
        if wanted in found.aliases:
            return found
    raise InvalidInput(param, f"{name!r} is not known; known are {', '.join(sorted(table))}")
