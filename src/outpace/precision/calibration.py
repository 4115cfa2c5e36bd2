"""The texts that a quantizer looks at: shipped ones, or a file of the user's (one JSON object per line)."""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from outpace.values.errors import InvalidInput

_FEWEST_TEXTS = 8
_MOST_TEXTS = 2_048
_MOST_BYTES = 16 * 1024 * 1024
_PARAM = "--calibration"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1)]


class CalibrationSet(msgspec.Struct, frozen=True, kw_only=True):
    """Texts whose activations decide scales; never those that a gate asks."""

    name: str
    sha256: str
    texts: tuple[str, ...]


@cache
def shipped_calibration() -> CalibrationSet:
    """The set that ships: prose, dialogue, code, data and eight languages, written for it."""
    raw = files("outpace.precision").joinpath("calibration.jsonl").read_bytes()
    return parse_calibration(raw, "shipped")


def read_calibration(path: Path) -> CalibrationSet:
    """The user's texts. Raises InvalidInput naming file, line and field."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidInput(_PARAM, f"{path.name} is larger than {_MOST_BYTES // 1024**2} MiB; sample it")
        return parse_calibration(path.read_bytes(), path.name)
    except OSError as error:
        raise InvalidInput(_PARAM, f"{str(path)[:200]!r} cannot be read: {error.strerror}") from error


def parse_calibration(raw: bytes, name: str) -> CalibrationSet:
    """Texts out of JSON lines such as `{"text": "…"}`. Raises InvalidInput."""
    lines = [(number, line) for number, line in enumerate(raw.splitlines(), start=1) if line.strip()]
    if not _FEWEST_TEXTS <= len(lines) <= _MOST_TEXTS:
        raise InvalidInput(
            _PARAM, f"{name} has {len(lines):,} texts; {_FEWEST_TEXTS} to {_MOST_TEXTS:,} are needed"
        )
    texts = tuple(_text(line, number, name) for number, line in lines)
    return CalibrationSet(name=name, sha256=hashlib.sha256(raw).hexdigest(), texts=texts)


def _text(line: bytes, number: int, name: str) -> str:
    try:
        return msgspec.json.decode(line, type=_Line).text
    except msgspec.DecodeError as error:
        raise InvalidInput(_PARAM, f"{name} line {number}: {error}") from error
