"""What the residuals of the step-time model may depend on: a setup as a short list of weighted traits.

Each trait has a prior spread; the ridge fit shrinks a trait that few rows support towards zero, so a device,
model or version that was never measured keeps the physical prediction.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from outpace.planner.engines import dated_build, version_name
from outpace.planner.quantities import mixer_of
from outpace.planner.setups import Quantity, Setup


@dataclass(frozen=True)
class Trait:
    """A named regressor: its value for a setup and the prior spread of its coefficient, in logs."""

    name: str
    value: float
    spread: float


_SPEED = {Quantity.THROUGHPUT: 1.0, Quantity.ITL: -1.0, Quantity.TTFT: 0.0}
MAIN, PAIR, NARROW, SLOPE, OWN_SLOPE = 0.1, 0.08, 0.1, 0.05, 0.15
# What models do on an engine and on its versions differs much and is shared by devices; what a version does to all
# models, and what only one setup does, differs little. Chosen on left-out groups (lab log, 2026-11-29).
_VERSION, _SETUP, _SETUP_VERSION = 0.03, 0.05, 0.05
_MODEL_ENGINE, _MODEL_FORMAT, _MODEL_VERSION = 0.12, 0.15, 0.25
# What a way of splitting does on an engine is shared by models, most by those that mix tokens and hold experts alike;
# what an engine does on a family of devices is shared by its devices (lab log, 2026-11-30).
_SPLIT_MODEL, _SPLIT_ENGINE, _SPLIT_KIN = 0.08, 0.12, 0.16
_FAMILY_ENGINE, _FAMILY_FORMAT, _KIN_FORMAT = 0.06, 0.1, 0.08
# Axes that a well measured setup, or a model on an engine, may follow in its own way.
_OWN_AXES = ("load", "prompt", "output")
_PAIR_AXES = (*_OWN_AXES, "width")


def traits(setup: Setup) -> Iterator[Trait]:
    """All traits of a setup: identities and slopes, shared by throughput and ITL with opposite signs, or own."""
    quantity = setup.metric.quantity
    for name, value, spread in _identities(setup):
        yield from _both(quantity, name, value, spread)
    for name, spread in _methods(setup):
        yield Trait(name, 1.0, spread)
    for name, value, spread in _slopes(setup):
        yield from _both(quantity, name, value, spread)


def _both(quantity: Quantity, name: str, value: float, spread: float) -> Iterator[Trait]:
    sign = _SPEED[quantity]
    if sign:
        yield Trait(f"speed:{name}", sign * value, spread * 0.8)
    yield Trait(f"{quantity}:{name}", value, spread * (0.5 if sign else 0.8))


def _identities(setup: Setup) -> Iterator[tuple[str, float, float]]:
    """Parts of a setup, then their combinations: what one part lacks rows for, the next wider ones teach."""
    gpu, model, made = setup.device.name, setup.shape.name, setup.generation.name
    stored, family, version = setup.weights.name, setup.device.family, version_of(setup)
    own = configuration_of(setup)
    named = {
        f"gpu={gpu}": MAIN,
        f"model={model}": MAIN,
        f"version={version}": _VERSION,
        f"format={stored} {family}": PAIR,
        f"gpu={gpu} model={model}": NARROW,
        f"gpu={gpu} engine={made}": PAIR,
        f"gpu={gpu} engine={made} format={stored}": PAIR,
        f"gpu={gpu} model={model} engine={made}": PAIR,
        f"model={model} engine={made}": _MODEL_ENGINE,
        f"model={model} engine={made} format={stored}": _MODEL_FORMAT,
        f"model={model} version={version}": _MODEL_VERSION,
        f"setup={own}": _SETUP,
        f"setup={own} version={version}": _SETUP_VERSION,
    }
    named.update(_shared(setup))
    if setup.method:
        named[f"method={setup.method} model={model} engine={made}"] = MAIN
    for name, spread in named.items():
        yield name, 1.0, spread


def _shared(setup: Setup) -> dict[str, float]:
    """What a part that was never measured has in common with those that were: split, kin of the model, family."""
    gpu, model, made = setup.device.name, setup.shape.name, setup.generation.name
    stored, family = setup.weights.name, setup.device.family
    kin = f"{mixer_of(setup.shape)} {'experts' if setup.shape.moe_layers else 'dense'}"
    split = f"{setup.split.tp}x{setup.split.pp}x{setup.split.attention_dp}"
    return {
        f"split={split} model={model} engine={made}": _SPLIT_MODEL,
        f"split={split} engine={made}": _SPLIT_ENGINE,
        f"split={split} kin={kin} engine={made}": _SPLIT_KIN,
        f"split={split} gpu={gpu} engine={made}": _SPLIT_ENGINE,
        f"family={family} engine={made}": _FAMILY_ENGINE,
        f"family={family} engine={made} format={stored}": _FAMILY_FORMAT,
        f"family={family} engine={made} model={model}": _FAMILY_ENGINE,
        f"kin={kin} engine={made} format={stored}": _KIN_FORMAT,
    }


def _methods(setup: Setup) -> Iterator[tuple[str, float]]:
    kind = kind_of(setup)
    yield f"kind={kind} engine={setup.generation.name}", PAIR
    yield f"kind={kind} method={setup.method}", MAIN
    yield f"kind={kind} method={setup.method} family={setup.device.family}", PAIR
    yield f"kind={kind} slo={setup.slo_ttft_ms:.0f}", PAIR


def _slopes(setup: Setup) -> Iterator[tuple[str, float, float]]:
    holders = (
        ("", MAIN),
        (f" engine={setup.generation.name}", SLOPE),
        (f" kind={kind_of(setup)}", MAIN),
        (f" family={setup.device.family}", SLOPE),
        (f" model={setup.shape.name}", SLOPE),
    )
    axes = _axes(setup)
    for axis, value in axes.items():
        for holder, spread in holders:
            yield f"{axis}{holder}", value, spread
    for axis in _PAIR_AXES:
        yield f"{axis} model={setup.shape.name} engine={setup.generation.name}", axes[axis], MAIN
    for axis in _OWN_AXES:
        yield f"{axis} setup={configuration_of(setup)}", axes[axis], OWN_SLOPE


def _axes(setup: Setup) -> dict[str, float]:
    """Logs of load, lengths and width, scaled to about one."""
    load = math.log(max(setup.concurrency, 1.0)) / 4
    if setup.rate_per_s and not setup.concurrency:
        load = math.log(max(setup.rate_per_s, 0.1)) / 3
    load = min(max(load, -1.0), 2.0)
    prompt = min(max(math.log(setup.isl / 1000) / 2, -2.5), 2.5)
    output = min(max(math.log(setup.osl / 500) / 2, -2.5), 2.5)
    width = min(math.log2(setup.split.stage_devices) / 3, 2.0)
    return {
        "load": load,
        "prompt": prompt,
        "output": output,
        "width": width,
        "load*load": load * load - 1.0,
        "load*prompt": load * prompt,
        "load*width": load * width,
    }


def kind_of(setup: Setup) -> str:
    """Load, quantity and statistic: what a residual's spread depends on most."""
    return f"{setup.load}/{setup.metric.quantity}/{setup.metric.statistic}"


def version_of(setup: Setup) -> str:
    """The engine generation with the version in one spelling; runs that name none are told apart by their engine."""
    case = setup.case
    written = version_name(case.engine, case.engine_version) or case.engine.strip().lower()
    named = dated_build(written, case.notes)
    return f"{setup.generation.name} {named}".strip()


def is_version_named(setup: Setup) -> bool:
    """Whether the case says which version of its engine runs."""
    return bool(version_name(setup.case.engine, setup.case.engine_version))


def configuration_of(setup: Setup) -> str:
    """Everything but lengths and load."""
    split = setup.split
    spread = f"{split.tp}x{split.pp}x{split.attention_dp}"
    return f"{setup.device.name} {setup.shape.name} {setup.generation.name} {setup.weights.name} {spread}"
