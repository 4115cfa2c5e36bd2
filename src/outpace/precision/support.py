"""Which engine runs which format on which device: natively, emulated, or not at all."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from outpace.precision.formats import kv_format, weight_format

Support = Literal["native", "emulated", "no"]


class SupportRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one engine does with the formats on one kind of device (`cpu`, or an NVIDIA `smNN`)."""

    engine: str
    device: str
    native: tuple[str, ...]
    emulated: tuple[str, ...] = ()
    kv: tuple[str, ...]
    source: str
    checked_on: str


def weight_support(engine: str, device: str, name: str) -> Support:
    """How `engine` runs weights of this format; `no` too for a pair that is not on record."""
    wanted = weight_format(name).name
    row = _row(engine, device)
    if row is None:
        return "no"
    return "native" if wanted in row.native else "emulated" if wanted in row.emulated else "no"


def kv_support(engine: str, device: str, name: str) -> Support:
    """How `engine` keeps keys and values of this format."""
    row = _row(engine, device)
    return "native" if row and kv_format(name).name in row.kv else "no"


@cache
def support_rows() -> tuple[SupportRow, ...]:
    """Everything on record."""
    text = files("outpace.precision").joinpath("support.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["support"], tuple[SupportRow, ...])


def _row(engine: str, device: str) -> SupportRow | None:
    return next((row for row in support_rows() if (row.engine, row.device) == (engine, device)), None)
