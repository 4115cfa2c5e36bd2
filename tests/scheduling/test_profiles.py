import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.scheduling.profiles import (
    UNMEASURED,
    best_concurrency,
    is_cut,
    refined,
    refusal,
    speculation_bands,
    variant_figures,
)
from outpace.values.profile import Conditions, LoadPoint, Profile, SpeculationPoint

CONDITIONS = Conditions(
    model="m", artifact_sha256="ab", engine="llamacpp", engine_version="llama 1", machine="zen, avx2"
)


def points(*figures: tuple[int, float]) -> tuple[LoadPoint, ...]:
    return tuple(LoadPoint(users=users, output_tokens_per_s=rate) for users, rate in figures)


def profile(*figures: tuple[int, float]) -> Profile:
    return Profile(
        conditions=CONDITIONS,
        measured_at=0.0,
        took_s=20.0,
        load_s=0.7,
        prefill_tokens_per_s=900.0,
        points=points(*figures),
        speculation=(
            SpeculationPoint(method="ngram_simple", workload="code", users=1, gain=2.0),
            SpeculationPoint(method="ngram_simple", workload="chat", users=1, gain=1.0),
        ),
    )


def test_a_profile_fills_the_fields_of_a_variant() -> None:
    figures = variant_figures(profile((1, 100.0), (8, 170.0), (16, 172.0)), 32)
    assert figures.speeds == ((1, 100.0), (8, 170.0), (16, 172.0))
    assert figures.prefill_tokens_per_s == 900.0
    assert figures.in_flight == 16
    assert [(band.method, band.most_users, band.gain) for band in figures.speculation] == [
        ("ngram_simple", 1, 1.5)
    ]
    assert variant_figures(None, 8) == UNMEASURED


def test_what_a_sweep_found_beyond_a_replica_s_places_is_not_claimed() -> None:
    figures = variant_figures(profile((1, 100.0), (8, 120.0), (32, 176.0)), 8)
    assert figures.speeds == ((1, 100.0), (8, 120.0))
    assert figures.in_flight == 8


def test_the_best_number_at_once_is_the_most_that_is_nearly_fastest() -> None:
    assert best_concurrency(points((1, 100.0), (4, 97.0), (8, 90.0))) == 4
    assert best_concurrency(points((1, 50.0), (32, 300.0))) == 32
    assert best_concurrency(()) is None


def test_where_speed_still_rose_at_the_last_load_nobody_knows_how_many_are_best() -> None:
    assert is_cut(points((1, 50.0), (16, 150.0)))
    assert not is_cut(points((1, 50.0), (8, 148.0), (16, 150.0)))
    assert not is_cut(points((1, 50.0), (8, 150.0), (16, 90.0)))
    assert not is_cut(points((1, 50.0), (32, 150.0)))
    assert not is_cut(())
    cut, whole = profile((1, 50.0), (16, 150.0)), profile((1, 50.0), (16, 150.0), (32, 140.0))
    assert variant_figures(cut, 32).in_flight is None
    assert variant_figures(whole, 32).in_flight == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": "other"}, "another machine: zen, avx2, this is other"),
        ({"engine_version": "llama 2"}, "another engine version: llama 1, this is llama 2"),
        ({"artifact_sha256": "cd"}, "other weights"),
        ({"settings": {"parallel": 4}}, "other settings"),
    ],
)
def test_a_profile_of_other_conditions_is_refused_with_the_reason(
    change: dict[str, object], words: str
) -> None:
    assert words in (refusal(profile(), msgspec.structs.replace(CONDITIONS, **change)) or "")
    assert refusal(profile(), CONDITIONS) is None


@given(rate=st.floats(1, 1e6), times=st.integers(1, 300))
def test_live_figures_move_a_profile_towards_them_and_never_past(rate: float, times: int) -> None:
    moved = profile((1, 100.0), (8, 170.0))
    for _ in range(times):
        moved = refined(moved, 1, rate)
    now = moved.points[0].output_tokens_per_s
    if 100 / 3 <= rate <= 300:
        assert min(100.0, rate) - 1e-6 <= now <= max(100.0, rate) + 1e-6
        assert moved.refined_by == times
    else:
        assert now == 100.0
    assert moved.points[1].output_tokens_per_s == 170.0


def test_a_load_between_two_measured_ones_moves_neither() -> None:
    assert refined(profile((1, 100.0), (8, 170.0)), 4, 140.0) == profile((1, 100.0), (8, 170.0))
    assert refined(profile((8, 170.0)), 9, 140.0).points[0].output_tokens_per_s < 170.0


def test_bands_are_in_order_of_load() -> None:
    made = speculation_bands(
        [
            SpeculationPoint(method="a", workload="code", users=users, gain=gain)
            for users, gain in ((32, 0.9), (1, 2.0), (8, 1.2))
        ]
    )
    assert [band.most_users for band in made] == [1, 8, 32]
