"""Bills of starts: from what a replica told, kept per deployment in the home; a remedy for each phase."""

import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from outpace.fleet.record import replace_file
from outpace.values.starts import StartBill

MOST_KEPT = 50


class _Told(msgspec.Struct):
    phases: dict[str, float] = {}


def phases_told(line: str) -> dict[str, float]:
    """The durations in the line by which a replica told that it listens; empty when it tells none."""
    try:
        return msgspec.json.decode(line, type=_Told).phases
    except msgspec.DecodeError:
        return {}


class StartHistory:
    """The last starts of each deployment, newest last, in one file each. Control is the only writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, list[StartBill]] = {}

    def of(self, deployment: str) -> list[StartBill]:
        """The starts that are known, oldest first."""
        if deployment not in self._kept:
            self._kept[deployment] = self._read(deployment)
        return self._kept[deployment]

    def add(self, deployment: str, bill: StartBill) -> None:
        """Keep a bill. A full disk loses it for the next control, no more; raises OSError."""
        kept = [*self.of(deployment), bill][-MOST_KEPT:]
        self._kept[deployment] = kept
        self._folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._path(deployment), msgspec.json.encode(kept))

    def forget(self, deployment: str) -> None:
        """The deployment is gone."""
        self._kept.pop(deployment, None)
        self._path(deployment).unlink(missing_ok=True)

    def _read(self, deployment: str) -> list[StartBill]:
        try:
            return msgspec.json.decode(self._path(deployment).read_bytes(), type=list[StartBill])
        except (OSError, msgspec.DecodeError):
            return []

    def _path(self, deployment: str) -> Path:
        # Deployments' names are checked to be safe in paths.
        return self._folder / f"{deployment}.json"


class _Remedy(msgspec.Struct, forbid_unknown_fields=True):
    remedy: str
    source: str


@cache
def _remedies() -> dict[str, _Remedy]:
    text = files("outpace.fleet").joinpath("remedies.toml").read_text()
    return msgspec.convert(tomllib.loads(text), dict[str, _Remedy])


def remedy(phase: str) -> str:
    """What helps against this phase."""
    return _remedies()[phase].remedy
