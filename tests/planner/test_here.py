"""The estimate for llama.cpp on this machine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.hardware.machine import Machine
from outpace.hardware.probe import Probe, Run
from outpace.planner.architectures import architecture
from outpace.planner.here import correction, estimate_here, estimates_here, with_real_run
from outpace.precision.formats import weight_format
from outpace.values.units import GIB

SMOL = architecture("smollm2-135m-instruct")
MACHINE = Machine("p", ("avx2",), 2, 8 * GIB, 6 * GIB, ())
PROBE = Probe(processor="p", cores=2, read_bytes_per_s=33e9, multiply_flops=1e11, probed_at_s=0.0)


@pytest.mark.parametrize(("name", "measured"), [("q4_0", 139), ("q8_0", 115), ("q4_1", 93)])
def test_predictions_lie_within_a_quarter_of_what_was_measured(name: str, measured: float) -> None:
    # Measured with xllamacpp 2026.10.11549 on the two cores that gave the 33 GB/s.
    found = estimate_here(SMOL, weight_format(name), PROBE, MACHINE)
    assert found.tokens_per_s == pytest.approx(measured, rel=0.25)
    assert found.low < found.tokens_per_s < found.high
    assert found.basis.startswith("roofline: probe 33.0 GB/s")


def test_a_real_run_replaces_the_estimate_and_says_what_had_been_predicted() -> None:
    stored = weight_format("q4_0")
    before = estimate_here(SMOL, stored, PROBE, MACHINE).tokens_per_s
    found = estimate_here(SMOL, stored, with_real_run(PROBE, SMOL, stored, 150.0), MACHINE)
    assert found.tokens_per_s == 150.0
    assert found.basis == f"measured here; the probe had said {before:.0f}"


def test_a_format_that_never_ran_takes_the_machines_part_of_others_runs() -> None:
    q4, q8 = weight_format("q4_0"), weight_format("q8_0")
    slow = with_real_run(PROBE, SMOL, q4, estimate_here(SMOL, q4, PROBE, MACHINE).tokens_per_s / 2)
    before = estimate_here(SMOL, q8, PROBE, MACHINE)
    after = estimate_here(SMOL, q8, slow, MACHINE)
    assert 0.5 < after.tokens_per_s / before.tokens_per_s < 0.8
    assert after.high / after.low < before.high / before.low
    assert "1 run here of other formats" in after.basis
    larger = estimate_here(architecture("Qwen3-8B"), q4, slow, MACHINE)
    assert "of this format too" in larger.basis


@given(
    st.lists(st.tuples(st.sampled_from(["q4_0", "q8_0"]), st.floats(1, 1e4), st.floats(1, 1e4)), max_size=6)
)
def test_a_correction_lies_between_nothing_and_the_furthest_run(
    pairs: list[tuple[str, float, float]],
) -> None:
    runs = [Run(format=name, predicted=p, measured=m) for name, p, m in pairs]
    learned = correction(runs, "q4_0")
    logs = [math.log(m / p) for _, p, m in pairs if 1 / 3 <= m / p <= 3] or [0.0]
    assert min(*logs, 0.0) - 1e-9 <= learned.log <= max(*logs, 0.0) + 1e-9
    assert 0 < learned.spread_log <= correction([], "q4_0").spread_log + 0.08


def test_a_run_on_a_busy_machine_stands_for_itself_only() -> None:
    disturbed = with_real_run(PROBE, SMOL, weight_format("q4_0"), 5.0)
    found = estimate_here(SMOL, weight_format("q8_0"), disturbed, MACHINE)
    assert found.tokens_per_s == estimate_here(SMOL, weight_format("q8_0"), PROBE, MACHINE).tokens_per_s
    assert "1 run more than 3x off not used" in found.basis
    assert estimate_here(SMOL, weight_format("q4_0"), disturbed, MACHINE).tokens_per_s == 5.0


def test_what_exceeds_the_memory_does_not_fit() -> None:
    options = estimates_here(architecture("Llama-3.1-70B"), PROBE, MACHINE)
    assert not any(option.fits for option in options)


def test_a_mixture_of_experts_reads_only_what_a_token_uses() -> None:
    stored = weight_format("q4_0")
    sparse = estimate_here(architecture("Qwen3-30B-A3B"), stored, PROBE, MACHINE)
    dense = estimate_here(architecture("Qwen3-32B"), stored, PROBE, MACHINE)
    assert sparse.tokens_per_s > 4 * dense.tokens_per_s
