"""How published runs start an engine: how often it looks for arrivals, and whether it was warm."""

from pathlib import Path

import numpy as np
import pytest
from tests.planner.samples import case

from outpace.planner.cases import Case
from outpace.planner.groundtruth import read_ground_truth
from outpace.planner.model import batch
from outpace.planner.setups import Setup, resolve

_FIXTURES = Path(__file__).parent / "fixtures"


def deepseek(**changes: str) -> Case:
    """Callers of DeepSeek on eight B200, asking for the first token."""
    fields = {
        "model": "DeepSeek-R1",
        "gpu": "B200-SXM-180GB",
        "n_gpus": "8",
        "tp": "8",
        "weights_precision": "fp8",
    }
    engine = {"engine": "sglang", "engine_version": "0.5.9", "isl": "1024", "osl": "1024"}
    return case(**{**fields, **engine, "metric": "ttft_ms_mean", **changes})


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"batch_or_concurrency": "8"}, 10),
        ({"batch_or_concurrency": "16"}, 30),
        ({"tp": "4", "n_gpus": "4"}, 10),
        ({"tp": "4", "n_gpus": "4", "weights_precision": "fp4"}, 30),
        ({"gpu": "H200-SXM-141GB"}, 1),
        ({"model": "GLM-5"}, 1),
        ({"engine": "trtllm"}, 1),
        ({"batch_or_concurrency": "all(100)"}, 1),
        ({"notes": "flags: --scheduler-recv-interval 5"}, 5),
        ({"gpu": "H200-SXM-141GB", "notes": "flags: --scheduler-recv-interval=7"}, 7),
        ({"notes": "flags: --scheduler-recv-interval 0"}, 1),
    ],
)
def test_how_often_arrivals_are_looked_for_is_noted_or_follows_the_recipe(
    changes: dict[str, str], steps: float
) -> None:
    assert resolve(deepseek(**{"batch_or_concurrency": "16", **changes})).poll_steps == steps


def served(asked: Case) -> tuple[float, float]:
    prepared = batch([resolve(asked)])
    service = prepared.serve(prepared.rates({}))
    return float(service.ttft_s[0]), float(service.itl_s[0])


def test_who_arrives_between_two_looks_waits_for_half_of_the_steps() -> None:
    seldom, pace = served(deepseek(notes="flags: --scheduler-recv-interval 21"))
    always, same = served(deepseek(notes="flags: --scheduler-recv-interval 1"))
    assert pace == same
    assert seldom - always == pytest.approx(10 * pace)


def test_kernels_compiled_within_a_run_delay_the_first_token_only() -> None:
    cold, warm = deepseek(notes="no warm-up"), deepseek()
    compiling = batch([resolve(cold)]).rates({})["compile"][0]
    assert served(cold)[0] - served(warm)[0] == pytest.approx(compiling)
    assert served(cold)[1] == served(warm)[1]


def test_first_tokens_of_an_engine_that_compiles_late_teach_nothing() -> None:
    first, pace = deepseek(notes="no warm-up"), deepseek(notes="no warm-up", metric="itl_ms_mean")
    assert resolve(first).is_compiling
    assert not resolve(pace).is_compiling
    assert not resolve(deepseek(notes="no warm-up", engine="vLLM")).is_compiling
    assert not resolve(deepseek()).is_compiling


@pytest.mark.parametrize(("day", "is_cold"), [("2025-11-02", True), ("2026-01-21", False), ("", False)])
def test_runs_before_the_source_warmed_up_are_cold(day: str, is_cold: bool, tmp_path: Path) -> None:
    found = read_inferencex(tmp_path, measured=day)
    assert [setup.is_cold for setup in found] == [is_cold, is_cold]


@pytest.mark.parametrize(
    ("origin", "share"), [("inferencex-csv", 0.9), ("inferencex-db-dump", 0.9), ("gap-analysis", 1.0)]
)
def test_the_source_draws_its_lengths_and_the_tables_other_origin_does_not(
    origin: str, share: float, tmp_path: Path
) -> None:
    found = read_inferencex(tmp_path, origin=origin)
    assert [setup.mean_share for setup in found] == [share, share]
    assert {(setup.isl, setup.osl) for setup in found} == {(1024, 1024)}


def test_runs_on_a_72_way_board_that_count_both_kinds_of_workers_are_left_out(tmp_path: Path) -> None:
    named = {"gpu": "GB200-192GB", "n_gpus": "36", "tp": "36", "engine": "trtllm", "engine_version": ""}
    assert read_inferencex(tmp_path, origin="inferencex-csv", **named) == []
    assert len(read_inferencex(tmp_path, origin="gap-analysis", **named)) == 2


def test_what_ran_on_a_day_tells_runs_with_multi_token_prediction(tmp_path: Path) -> None:
    named = {"engine": "trtllm", "engine_version": "1.1.0rc2.post2", "gpu": "H200-SXM-141GB"}
    drafting = read_inferencex(tmp_path, measured="2026-01-14", **named)
    plain = read_inferencex(tmp_path, measured="2025-12-15", **named)
    assert [setup.drafted for setup in drafting] == [3, 3]
    assert [setup.drafted for setup in plain] == [0, 0]
    assert resolve(deepseek(**named)).drafted == 0


def read_inferencex(folder: Path, **changes: str) -> list[Setup]:
    """Setups of one row of the source's table, read beside the other tables."""
    for name in ("throughput.csv", "latency.csv"):
        (folder / name).write_bytes((_FIXTURES / name).read_bytes())
    names = (_FIXTURES / "latency_inferencex.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    asked = deepseek()
    row = {
        **{name: getattr(asked, name) for name in names if hasattr(asked, name)},
        **{"id": "SIL-X", "mode": "agg", "moe_ep": "1", "ttft_ms": "180.5", "tpot_ms": "9.25"},
        **changes,
    }
    line = ",".join(row.get(name, "") for name in names)
    (folder / "latency_inferencex.csv").write_text(",".join(names) + "\n" + line + "\n", encoding="utf-8")
    return [row.setup for row in read_ground_truth(folder).rows if row.case.id == "SIL-X"]


def read_page(folder: Path, page: str, **changes: str) -> list[Setup]:
    """Setups of a row of GPUStack's pages, read beside the other tables."""
    for name in ("throughput.csv", "latency_inferencex.csv"):
        (folder / name).write_bytes((_FIXTURES / name).read_bytes())
    names = (_FIXTURES / "latency.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    row = {
        **{
            "id": "GPS-X",
            "source": f"docs/performance-lab/{page}",
            "model": "Qwen3-8B",
            "gpu": "Ascend-910B",
        },
        **{
            "n_gpus": "1",
            "tp": "1",
            "engine": "vLLM",
            "isl": "217",
            "osl": "201",
            "weights_precision": "BF16",
        },
        **{"batch_or_concurrency": "all(1000)", "itl_ms": "788.3", "itl_stat": "mean_tpot"},
        **changes,
    }
    line = ",".join(row.get(name, "") for name in names)
    (folder / "latency.csv").write_text(",".join(names) + "\n" + line + "\n", encoding="utf-8")
    return [row.setup for row in read_ground_truth(folder).rows if row.case.id == "GPS-X"]


def test_a_row_that_names_another_model_than_its_page_is_left_out(tmp_path: Path) -> None:
    assert read_page(tmp_path, "qwen3-8b/910b.md")
    assert not read_page(tmp_path, "qwen3-32b/910b.md")
    assert read_page(
        tmp_path, "glm-4.x/h200.md", model="GLM-4.6-FP8", gpu="H200-SXM-141GB", n_gpus="8", tp="8"
    )


def test_a_section_about_another_engine_is_that_engines(tmp_path: Path) -> None:
    [own] = read_page(tmp_path, "qwen3-8b/910b.md", notes="section: 1. Choosing the Inference Engine")
    [other] = read_page(tmp_path, "qwen3-8b/910b.md", notes="section: 2. Quantization in MindIE")
    assert (own.generation.name, other.generation.name) == ("vllm-ascend", "mindie")


def test_a_case_without_any_of_it_is_served_as_before() -> None:
    prepared = batch([resolve(case())])
    assert np.array_equal(prepared.at.poll_steps, [1.0])
    assert np.array_equal(prepared.at.is_cold, [0.0])
