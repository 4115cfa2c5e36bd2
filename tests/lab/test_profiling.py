"""The sweep on a real replica of the echo engine: its shape, never its speed."""

from pathlib import Path

import msgspec

from outpace.engines.registry import engine
from outpace.lab.profiling import Sweep, go_on, profile
from outpace.lab.replica import LabVariant
from outpace.values.clock import SystemClock
from outpace.values.profile import Conditions, LoadPoint


def sweep(parallel: int, budget_s: float = 300.0, **settings: str | int | float | bool) -> Sweep:
    return Sweep(
        conditions=Conditions(
            model="echo", artifact_sha256="", engine="echo", engine_version="1", machine="here"
        ),
        variant=LabVariant(
            model="echo",
            artifact_path=Path("none"),
            context_tokens=4096,
            parallel=parallel,
            engine_settings=settings,
        ),
        speculation={"pretended": {}},
        budget_s=budget_s,
    )


async def test_a_sweep_measures_every_load_that_the_replica_takes() -> None:
    said: list[str] = []
    made = await profile(sweep(4), engine("echo"), SystemClock(), lambda what, share: said.append(what))
    assert [point.users for point in made.points] == [1, 2, 4]
    assert all(point.output_tokens_per_s > 0 for point in made.points)
    assert made.prefill_tokens_per_s > 0
    assert 0 < made.load_s < made.took_s
    assert {(point.workload, point.users) for point in made.speculation} == {
        (workload, users) for workload in ("code", "chat") for users in (1, 4)
    }
    assert "decode speed of 2 at once" in said


async def test_what_no_longer_fits_the_budget_is_left_out() -> None:
    made = await profile(sweep(32, budget_s=0.001), engine("echo"), SystemClock())
    assert [point.users for point in made.points] == [1]
    assert made.speculation == ()


async def test_what_was_left_out_is_measured_by_going_on() -> None:
    cut = msgspec.structs.replace(await profile(sweep(1), engine("echo"), SystemClock()), speculation=())
    said: list[str] = []
    whole = await go_on(cut, sweep(1), engine("echo"), SystemClock(), lambda what, share: said.append(what))
    assert [(point.workload, point.users) for point in whole.speculation] == [("code", 1), ("chat", 1)]
    assert (whole.points, whole.load_s) == (cut.points, cut.load_s)
    assert whole.took_s > cut.took_s
    assert whole.measured_at > cut.measured_at
    assert not any(what.startswith("decode speed") for what in said)
    # One of two is left.
    half = msgspec.structs.replace(whole, speculation=whole.speculation[:1])
    again = await go_on(half, sweep(1), engine("echo"), SystemClock())
    assert again.speculation[0] == whole.speculation[0]
    assert [point.workload for point in again.speculation] == ["code", "chat"]


async def test_a_load_that_no_longer_fitted_is_measured_by_going_on() -> None:
    cut = msgspec.structs.replace(
        await profile(sweep(8), engine("echo"), SystemClock()),
        points=(
            LoadPoint(users=1, output_tokens_per_s=100.0),
            LoadPoint(users=2, output_tokens_per_s=180.0),
        ),
    )
    wider = await go_on(cut, sweep(8), engine("echo"), SystemClock())
    assert [point.users for point in wider.points] == [1, 2, 4]
    assert wider.points[:2] == cut.points
    # A replica takes no more.
    assert await go_on(cut, sweep(2), engine("echo"), SystemClock()) is cut
    slow = msgspec.structs.replace(cut, prefill_tokens_per_s=10.0)
    assert await go_on(slow, sweep(8, budget_s=30.0), engine("echo"), SystemClock()) is slow


async def test_a_profile_stays_the_same_where_starting_left_no_time_to_measure() -> None:
    whole = await profile(sweep(1), engine("echo"), SystemClock())
    cut = msgspec.structs.replace(
        whole,
        speculation=(),
        prefill_tokens_per_s=1e12,
        points=(LoadPoint(users=1, output_tokens_per_s=1e12), LoadPoint(users=2, output_tokens_per_s=1e12)),
    )
    # Steps would fit, but a replica alone takes longer to start.
    assert await go_on(cut, sweep(1, budget_s=1e-3), engine("echo"), SystemClock()) is cut


async def test_nothing_is_started_for_what_does_not_fit() -> None:
    made = msgspec.structs.replace(
        await profile(sweep(1), engine("echo"), SystemClock()), speculation=(), prefill_tokens_per_s=1.0
    )
    assert await go_on(made, sweep(1, budget_s=30.0), engine("echo"), SystemClock()) is made
    without_memory = msgspec.structs.replace(sweep(1), speculation={})
    assert await go_on(made, without_memory, engine("echo"), SystemClock()) is made
