"""When two measured runs are the same run again, on another device, or on another version of the engine."""

import re

from outpace.planner.setups import Setup
from outpace.planner.traits import version_of


def traffic_of(setup: Setup) -> str:
    """Everything that two runs must share to be compared, except the device."""
    return f"{_asked_of(setup)} | {version_of(setup)}"


def run_of(setup: Setup) -> str:
    """A run by all that a case says of it; equal ones are repeats."""
    return f"{run_on_any_version(setup)} | {version_of(setup)}"


def run_on_any_version(setup: Setup) -> str:
    """A run by all that a case says of it except the version within its engine's generation."""
    promised = f"{setup.slo_ttft_ms:.0f} {setup.slo_itl_ms:.0f} {setup.beams} {setup.method}"
    return f"{_asked_of(setup)} | {setup.device.name} {setup.generation.name} | {promised}"


def _asked_of(setup: Setup) -> str:
    split, case = setup.split, setup.case
    parts = (
        setup.shape.name,
        setup.weights.name,
        setup.metric.name,
        f"{setup.replicas * split.devices:.0f} {split.tp}x{split.pp}x{split.attention_dp}",
        f"{setup.load} {case.batch_or_concurrency} {case.request_rate_rps}",
        f"{setup.isl:.0f} {setup.osl:.0f}",
        f"{case.kv_precision} {setup.expert_groups:.0f} {_flags(case.notes)} {setup.drafted}",
    )
    return " | ".join(parts)


def _flags(notes: str) -> str:
    """How an engine was started, without the place of its model."""
    found = re.search(r"flags: (.*)", notes)
    return re.sub(r"--model(-path)? \S+", "", found[1]).strip() if found else ""
