"""What the gate allows (limits.toml), and the limits' name: a verdict holds only for those it was made with."""

import hashlib
import tomllib
from functools import cache
from importlib.resources import files

import msgspec


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of one metric is allowed, and how it is judged (limits.toml)."""

    limit: float
    cap: float
    shown: bool
    unit: str
    source: str
    floor: float = 0.0


@cache
def limits() -> dict[str, Limit]:
    """The limits that ship."""
    text = files("outpace.precision").joinpath("limits.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Limit])


@cache
def limits_sha256() -> str:
    """Hash of what decides; where a limit comes from and what it is called may be told better."""
    deciding = [
        (name, each.limit, each.cap, each.shown, each.floor) for name, each in sorted(limits().items())
    ]
    return hashlib.sha256(msgspec.json.encode(deciding)).hexdigest()
