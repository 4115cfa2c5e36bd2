"""The estimate for llama.cpp on this machine."""

import pytest

from outpace.hardware.machine import Machine
from outpace.hardware.probe import Probe, with_measurement
from outpace.planner.architectures import architecture
from outpace.planner.here import artifact_name, estimate_here, estimates_here
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


def test_a_real_run_replaces_the_estimate_and_says_so() -> None:
    stored = weight_format("q4_0")
    corrected = with_measurement(PROBE, artifact_name(SMOL, stored), 150.0)
    found = estimate_here(SMOL, stored, corrected, MACHINE)
    assert (found.tokens_per_s, found.basis) == (150.0, "measured: first run here")


def test_what_exceeds_the_memory_does_not_fit() -> None:
    options = estimates_here(architecture("Llama-3.1-70B"), PROBE, MACHINE)
    assert not any(option.fits for option in options)


def test_a_mixture_of_experts_reads_only_what_a_token_uses() -> None:
    stored = weight_format("q4_0")
    sparse = estimate_here(architecture("Qwen3-30B-A3B"), stored, PROBE, MACHINE)
    dense = estimate_here(architecture("Qwen3-32B"), stored, PROBE, MACHINE)
    assert sparse.tokens_per_s > 4 * dense.tokens_per_s
