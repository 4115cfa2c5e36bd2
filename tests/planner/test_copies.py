"""Runs that tables hold twice."""

from tests.planner.samples import case

from outpace.planner.copies import AGAIN, CONTRADICTED, Run, once
from outpace.planner.setups import resolve


def run(*values: float, **changes: str) -> Run:
    """A run with a time to the first token, a time between tokens, and a throughput where given."""
    metrics = ("ttft_ms_mean", "itl_ms_mean", "output_throughput")
    setups = [resolve(case(**changes).asking(metric)) for metric in metrics[: len(values)]]
    return Run(tuple(setups), values, "here")


def test_a_run_published_twice_is_kept_once_as_the_row_that_says_most() -> None:
    vague, named = run(106.625, 13.3672, engine_version=""), run(106.625, 13.3672, engine_version="0.11.0")
    other = run(106.626, 13.3672)
    kept, left_out = once([vague, other, named])
    assert kept == [other, named]
    assert left_out == {AGAIN: 2}


def test_a_copy_may_be_rounded_to_a_hundredth() -> None:
    exact, rounded = run(1189.982, 12.9074, engine_version="0.5.9"), run(1189.98, 12.91)
    assert once([rounded, exact]) == ([exact], {AGAIN: 2})


def test_what_ends_in_a_five_may_have_been_rounded_down() -> None:
    exact, rounded = run(840.695, 15.511, engine_version="0.5.9"), run(840.69, 15.51)
    assert once([rounded, exact]) == ([exact], {AGAIN: 2})
    assert once([run(840.68, 15.51), exact])[1] == {}


def test_the_layout_that_needs_no_second_reading_is_kept() -> None:
    doubled = run(346.891, 12.7494, model="DeepSeek-V3", n_gpus="64", tp="64", notes="a note that is longer")
    plain = run(346.891, 12.7494, model="DeepSeek-R1", n_gpus="8", tp="8")
    assert once([doubled, plain])[0] == [plain]


def test_equal_figures_of_two_devices_or_models_are_both_left_out() -> None:
    devices = [run(16583.77, 153.0, 190.21, gpu=gpu) for gpu in ("A100-SXM-80GB", "H100-SXM-80GB")]
    models = [run(112.38, 25.42, 88.5, model=model) for model in ("Qwen3-30B-A3B", "Qwen3-8B")]
    kept, left_out = once([*devices, *models])
    assert not kept
    assert left_out == {CONTRADICTED: 12}


def test_figures_that_chance_may_repeat_and_other_lengths_are_runs_of_their_own() -> None:
    rounded = [run(24.0, 9.0), run(24.0, 9.0, gpu="H200-SXM-141GB")]
    single = [run(10907.25), run(10907.25)]
    lengths = [run(106.625, 13.3672), run(106.625, 13.3672, isl="2000")]
    runs = [*rounded, *single, *lengths]
    assert once(runs) == (runs, {})
