"""`outpace plan MODEL --here`: this machine, its probe, and what llama.cpp will do on it."""

import contextlib
from pathlib import Path

import msgspec
import typer

from outpace.cli.options import home_at
from outpace.cli.show import as_json, table
from outpace.hardware.machine import Machine, detect, machine_name
from outpace.hardware.probe import Probe, load_probe, probe, save_probe
from outpace.planner.architectures import architecture
from outpace.planner.here import LocalEstimate, estimate_here, estimates_here, with_real_run
from outpace.planner.model_files import shape_of_file
from outpace.precision.formats import weight_format
from outpace.values.architecture import Architecture
from outpace.values.clock import SystemClock
from outpace.values.errors import InvalidInput, WeightsInvalid
from outpace.values.home import Home
from outpace.values.profile import Profile
from outpace.values.units import GB


def show_here(
    model: str, shape: Architecture, home: Path | None, as_document: bool, measured: str | None = None
) -> None:
    """Print the machine and the predicted decode speed per format; fails when no format fits."""
    machine, place = detect(), home_at(home)
    path = place.root / "machine.json"
    found = with_profiled_runs(kept_probe(path, machine), place, machine)
    if measured:
        found = _correct(shape, measured, found, machine)
    save_probe(found, path)
    estimates = estimates_here(shape, found, machine)
    if as_document:
        as_json(_document(model, machine, found, estimates))
    else:
        _print(model, machine, found, estimates)
    if not any(estimate.fits for estimate in estimates):
        raise typer.Exit(1)


def _correct(shape: Architecture, measured: str, found: Probe, machine: Machine) -> Probe:
    """Keep `FORMAT=TOKENS_PER_S` of a real run, and say how far the prediction was off."""
    name, _, speed = measured.partition("=")
    stored = weight_format(name)
    try:
        real = float(speed)
    except ValueError:
        raise InvalidInput(
            "measured", f"{measured!r} should read FORMAT=TOKENS_PER_S, such as q4_0=139"
        ) from None
    before = estimate_here(shape, stored, found, machine).tokens_per_s
    corrected = with_real_run(found, shape, stored, real)
    typer.echo(
        f"{stored.name}: predicted {before:.0f} tok/s, measured {real:.0f} ({before / real - 1:+.0%}); kept",
        err=True,
    )
    return corrected


def with_profiled_runs(found: Probe, home: Home, machine: Machine) -> Probe:
    """The probe with what `outpace profile` and first runs measured on this machine under llama.cpp.

    A profile of weights that are gone, or damaged, teaches nothing.
    """
    for path in sorted(home.profiles.glob("*.json")):
        with contextlib.suppress(msgspec.MsgspecError, InvalidInput, WeightsInvalid, OSError):
            profile = msgspec.json.decode(path.read_bytes(), type=Profile)
            found = _with_profile(found, profile, home, machine)
    return found


def _with_profile(found: Probe, profile: Profile, home: Home, machine: Machine) -> Probe:
    known = profile.conditions
    alone = [point for point in profile.points if point.users == 1 and point.itl_ms]
    if known.engine != "llamacpp" or known.machine != machine_name(machine) or not alone:
        return found
    # Pulled ones lie under `sha256/`, those made here under `made/`.
    weights = next(home.artifacts.glob(f"*/{known.artifact_sha256}/weights.gguf"), None)
    if weights is None:
        return found
    in_file = shape_of_file(weights)
    try:
        shape = architecture(known.model)
    except InvalidInput:
        shape = in_file
    assert alone[0].itl_ms
    return with_real_run(found, shape, weight_format(in_file.native_format), 1000 / alone[0].itl_ms)


def kept_probe(path: Path, machine: Machine) -> Probe:
    """The probe in the home folder, or a new one when there is none or the machine is another."""
    kept = load_probe(path)
    if kept and (kept.processor, kept.cores) == (machine.processor, machine.cores):
        return kept
    return probe(machine.processor, SystemClock(), machine.cores)


def _print(model: str, machine: Machine, found: Probe, estimates: list[LocalEstimate]) -> None:
    typer.echo(machine.summary)
    typer.echo(
        f"probe: reads {found.read_bytes_per_s / 1e9:.1f} GB/s, multiplies {found.multiply_flops / 1e9:.0f} GFLOP/s"
    )
    table(
        ("format", "decode tok/s>", "80 %>", "memory GB>", "fits", "basis"),
        [
            (
                e.format,
                f"{e.tokens_per_s:.0f}",
                f"{e.low:.0f}-{e.high:.0f}",
                f"{e.memory_bytes / GB:.2f}",
                e.fits,
                e.basis,
            )
            for e in estimates
        ],
    )
    best = max((e for e in estimates if e.fits), key=lambda e: e.tokens_per_s, default=None)
    if best is None:
        typer.echo(f"{model} does not fit this machine's memory in any format; choose a smaller model.")
    else:
        typer.echo(
            f"fastest that fits: {best.format}; a low-bit format is used only after its quality gate passed"
        )


def _document(
    model: str, machine: Machine, found: Probe, estimates: list[LocalEstimate]
) -> dict[str, object]:
    return {
        "model": model,
        "machine": {
            "processor": machine.processor,
            "cores": machine.cores,
            "features": list(machine.features),
            "memory_bytes": machine.memory_bytes,
            "available_bytes": machine.available_bytes,
            "gpus": [{"name": a.name, "memory_bytes": a.memory_bytes} for a in machine.accelerators],
        },
        "probe": {"read_bytes_per_s": found.read_bytes_per_s, "multiply_flops": found.multiply_flops},
        "options": [
            {
                "format": e.format,
                "decode_tokens_per_s": round(e.tokens_per_s, 2),
                "low": round(e.low, 2),
                "high": round(e.high, 2),
                "memory_bytes": round(e.memory_bytes),
                "fits": e.fits,
                "basis": e.basis,
            }
            for e in estimates
        ],
    }
