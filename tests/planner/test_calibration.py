"""What of a setup is new, and the interval that follows."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planner.samples import CLOSED_8B, case

from outpace.planner.calibration import shipped_calibration
from outpace.planner.cases import Case
from outpace.planner.estimate import estimate_all
from outpace.planner.setups import resolve

NEW_MODEL = "OPT-13B"
# A part of a case and a value that was never measured.
_NEW = {"device": {"gpu": "A10G"}, "model": {"model": NEW_MODEL}, "version": {"engine_version": "0.11.99"}}


def news(**changes: str) -> tuple[str, ...]:
    return shipped_calibration().news(resolve(case(CLOSED_8B, **changes)))


def width(asked: Case) -> float:
    bar = shipped_calibration().spread(resolve(asked))
    return bar.high - bar.low


def test_a_version_that_was_measured_is_not_new_however_it_is_spelt() -> None:
    assert news() == news(engine_version="v0.11.0") == news(engine="vLLM 0.11.0", engine_version="")
    assert "version" not in news()


@pytest.mark.parametrize("version", ["0.11.99", "9.0", "latest", "nightly"])
def test_a_version_that_was_not_measured_is_new(version: str) -> None:
    assert news(engine_version=version) == ("version",)


@pytest.mark.parametrize("version", ["", "unknown", "None", "-"])
def test_a_version_left_open_is_one_of_those_measured(version: str) -> None:
    assert "version" not in news(engine_version=version)


def test_a_new_engine_has_no_version_to_be_new() -> None:
    assert news(engine="some-engine", engine_version="1.0") == ("engine",)


def test_what_is_new_is_said() -> None:
    def basis(**changes: str) -> str:
        [found] = estimate_all([resolve(case(CLOSED_8B, **changes))], shipped_calibration())
        return found.basis

    assert "this version of the engine was not measured" in basis(engine_version="9.0")
    assert "whichever measured version of the engine runs" in basis(engine_version="")
    both = basis(engine_version="9.0", model=NEW_MODEL)
    assert both.startswith(
        "calibrated: the model was not measured; this version of the engine was not measured"
    )
    assert "version of the engine" not in basis()


def test_several_new_parts_are_far_and_a_version_beside_one_is_not() -> None:
    calibration = shipped_calibration()
    two = case(model=NEW_MODEL, **_NEW["version"])
    assert calibration.novelty(resolve(two)) == "model, version"
    assert calibration.novelty(resolve(case(gpu="Gaudi3", **_NEW["version"]))) == "family"
    assert calibration.novelty(resolve(case(gpu="Gaudi3", model=NEW_MODEL))) == "far"


# No deadline: a shared machine may stop a test for longer than any sound one.
@settings(deadline=None, max_examples=60)
@given(
    new=st.sets(st.sampled_from(sorted(_NEW)), min_size=1),
    metric=st.sampled_from(["itl_ms_mean", "itl_ms_p99", "ttft_ms_mean", "output_throughput"]),
    load=st.sampled_from(["1", "64", "max", "all(500)"]),
)
def test_an_interval_is_at_least_as_wide_as_that_of_each_new_part(
    new: set[str], metric: str, load: str
) -> None:
    if load == "max" and metric != "output_throughput":
        load = "16"
    base = case(metric=metric, batch_or_concurrency=load)
    every = {column: value for part in new for column, value in _NEW[part].items()}
    together = width(case(base, **every))
    assert all(together >= width(case(base, **_NEW[part])) for part in new)


def test_a_new_version_widens_the_interval_of_a_known_one() -> None:
    for metric in ("itl_ms_mean", "ttft_ms_mean", "output_throughput"):
        assert width(case(metric=metric, **_NEW["version"])) > width(case(metric=metric))


def test_a_shift_moves_what_is_new_and_nothing_else() -> None:
    calibration = msgspec.structs.replace(shipped_calibration(), shifts={"model/itl": -0.09})
    assert calibration.shift(resolve(CLOSED_8B)) == 0
    assert calibration.shift(resolve(case(model=NEW_MODEL))) == -0.09
    assert calibration.shift(resolve(case(model=NEW_MODEL, metric="ttft_ms_mean"))) == 0
