"""AccelMark's runs by what its own results say and the tables do not: models, lengths, processors of the host."""

import re
import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files

import msgspec

from outpace.hardware.devices import Device
from outpace.planner.cases import Case
from outpace.planner.workloads import accelmark_workload

# `AMK-F-RTX-4090x1-off`: suite, device, devices, scenario.
_RUN = re.compile(r"AMK-([A-G])-(.+?)x(\d+)(?:-|$)")


class _Substitute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another model than the suite's own, on some devices."""

    suite: str
    devices: tuple[str, ...]
    model: str
    isl: float
    osl: float


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor beside up to so many devices of a kind."""

    device: str
    processor: str
    most_devices: int = 1024


class _Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Versions of engines and models that were run."""

    versions: tuple[str, ...]
    models: tuple[str, ...]


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    published: _Published
    substitute: tuple[_Substitute, ...]
    host: tuple[Host, ...]


def completed(case: Case) -> Case:
    """A case of a table by what AccelMark's results say of that run; any other case unchanged."""
    run = _RUN.match(case.id)
    if not run:
        return case
    suite, written, devices = run[1], run[2], int(run[3])
    isl, osl = accelmark_workload(suite)
    found = replace(case, isl=str(isl), osl=str(osl), notes=f"{case.notes}{_host_note((written,), devices)}")
    for other in _facts().substitute:
        if other.suite == suite and written in other.devices:
            return replace(found, model=other.model, isl=str(other.isl), osl=str(other.osl))
    return found


def hosts() -> tuple[Host, ...]:
    """Every known host; of several for a device the first one with enough devices counts."""
    return _facts().host


def published_processor(on: Device, model: str, version: str, devices: int) -> str:
    """The processor beside the published runs of a model and an engine's version; empty where there are none."""
    known = _facts().published
    if version not in known.versions or model not in known.models:
        return ""
    return _processor_beside((on.name, *on.aliases), devices)


def _host_note(names: tuple[str, ...], devices: int) -> str:
    processor = _processor_beside(names, devices)
    return f"; host: {processor}" if processor else ""


def _processor_beside(names: tuple[str, ...], devices: int) -> str:
    found = (host for host in hosts() if host.device in names and devices <= host.most_devices)
    return next((host.processor for host in found), "")


@cache
def _facts() -> _Facts:
    text = files("outpace.planner").joinpath("accelmark.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _Facts)
