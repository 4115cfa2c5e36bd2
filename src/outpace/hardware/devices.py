"""Facts about accelerators, read from `devices.toml`, found under any spelling that measurements use."""

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

import msgspec

from outpace.values.errors import InvalidInput


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One accelerator: capacity and dense peak rates; a rate of 0 means no such unit."""

    name: str
    vendor: str
    family: str
    memory_bytes: float
    memory_type: str
    bandwidth_bytes_per_s: float
    bf16_flops: float
    source: str
    checked_on: str
    confidence: str
    aliases: tuple[str, ...] = ()
    fp32_flops: float = 0.0
    fp8_flops: float = 0.0
    int8_ops: float = 0.0
    fp4_flops: float = 0.0
    link: str = "none"
    link_bytes_per_s: float = 0.0
    pcie_bytes_per_s: float = 0.0
    tdp_w: float = 0.0
    # The processor of a superchip, which is always beside it.
    processor: str = ""
    vendor_headline: str = ""
    notes: str = ""

    @property
    def peer_bytes_per_s(self) -> float:
        """One-way rate to a neighbour: the link, or half of PCIe because both ends share the host's path."""
        return self.link_bytes_per_s or self.pcie_bytes_per_s / 2 or 8e9

    def multiply_flops(self, unit: str) -> float:
        """Dense peak of an arithmetic class, falling back to the widest class that the device has.

        A device without an FP4 (FP8) unit runs such weights on its FP8 (16-bit) units after unpacking.
        """
        rates = {"fp4": self.fp4_flops, "fp8": self.fp8_flops, "int8": self.int8_ops}
        fallback = {"fp4": "fp8", "fp8": "16", "int8": "16"}
        while unit in rates:
            if rates[unit]:
                return rates[unit]
            unit = fallback[unit]
        return self.fp32_flops or self.bf16_flops / 2 if unit == "32" else self.bf16_flops


def device(name: str) -> Device:
    """The device of this name or alias. Raises InvalidInput with the nearest names."""
    table = _by_spelling()
    found = table.get(_normal(name))
    if found is None:
        near = get_close_matches(_normal(name), table, n=3, cutoff=0.6)
        known = ", ".join(sorted({table[n].name for n in near} or {d.name for d in devices()}))
        raise InvalidInput("gpu", f"{name!r} is not known; nearest or known: {known}")
    return found


@cache
def devices() -> tuple[Device, ...]:
    """Every known device, in the order of the file."""
    text = files("outpace.hardware").joinpath("devices.toml").read_text(encoding="utf-8")
    return tuple(
        msgspec.convert({"name": name, **fields}, Device) for name, fields in tomllib.loads(text).items()
    )


@cache
def _by_spelling() -> dict[str, Device]:
    return {_normal(spelling): found for found in devices() for spelling in (found.name, *found.aliases)}


def _normal(name: str) -> str:
    bare = re.sub(r"[^a-z0-9]+", "-", name.strip().lower()).strip("-")
    bare = re.sub(r"^(nvidia|amd-instinct|amd|google)-", "", bare)
    return bare.removeprefix("geforce-")
