"""Detection and the kept probe."""

from pathlib import Path

import pytest

from outpace.hardware.machine import detect
from outpace.hardware.probe import Probe, Run, load_probe, probe, save_probe, with_run
from outpace.values.clock import SystemClock
from outpace.values.errors import InvalidInput


def kept() -> Probe:
    return Probe(processor="p", cores=2, read_bytes_per_s=2e10, multiply_flops=1e11, probed_at_s=1.0)


def test_this_machine_has_cores_and_memory() -> None:
    machine = detect()
    assert machine.cores >= 1
    assert machine.memory_bytes >= machine.available_bytes > 0
    assert str(machine.cores) in machine.summary


def test_a_probe_measures_plausible_rates() -> None:
    found = probe("here", SystemClock(), cores=1)
    assert 1e8 < found.read_bytes_per_s < 1e13
    assert 1e8 < found.multiply_flops < 1e15


def test_a_probe_is_kept_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "machine.json"
    assert load_probe(path) is None
    run = Run(format="q4_0", predicted=100.0, measured=123.0)
    save_probe(with_run(kept(), "m q4_0", run), path)
    again = load_probe(path)
    assert again is not None
    assert again.runs == {"m q4_0": run}


def test_a_damaged_probe_names_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text("{")
    with pytest.raises(InvalidInput, match="delete it"):
        load_probe(path)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(speed: float) -> None:
    with pytest.raises(InvalidInput, match="decode speed"):
        with_run(kept(), "m", Run(format="q4_0", predicted=1.0, measured=speed))
