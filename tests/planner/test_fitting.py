"""Reading published rows, fitting, error bars and accuracy, on a small fixture of them."""

from datetime import date
from pathlib import Path

import pytest
from tests.planner.samples import case

from outpace.planner.calibration import SCHEMA, decode, encode, load_calibration, shipped_calibration
from outpace.planner.fitting import evidence, fit_from_anywhere, fit_quantities
from outpace.planner.groundtruth import FILES, GroundTruth, read_ground_truth
from outpace.planner.marks import marks
from outpace.planner.setups import resolve
from outpace.planner.traits import traits, version_of
from outpace.planner.validation import LeftOut, accuracy, calibrate, left_out, prepare, usable
from outpace.values.errors import InvalidInput

FOLDER = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    return read_ground_truth(FOLDER)


def quiet(step: str) -> None:
    assert step


def test_rows_that_cannot_be_compared_are_counted_by_reason(truth: GroundTruth) -> None:
    reasons = " ".join(truth.left_out)
    for words in ("SUSPECT", "disaggregated", "a ratio", "two kinds", "input tokens count", "switched off"):
        assert words in reasons
    assert len(truth.rows) > 100


_ROW = {
    "source": "made up",
    "gpu": "H200-SXM-141GB",
    "mode": "agg",
    "engine": "vllm",
    "engine_version": "0.12.0",
    "isl": "1000",
    "osl": "100",
    "batch_or_concurrency": "8",
}


def _read(folder: Path, name: str, fields: dict[str, str]) -> GroundTruth:
    """The ground truth of one row, under the columns of the fixture."""
    for file in FILES:
        header = (FOLDER / file).read_text(encoding="utf-8").splitlines()[0]
        row = ",".join(fields.get(column, "") for column in header.split(","))
        (folder / file).write_text(header + "\n" + (row + "\n" if file == name else ""), encoding="utf-8")
    return read_ground_truth(folder)


def test_experts_on_more_devices_than_one_group_mean_several_groups(tmp_path: Path) -> None:
    experts = {"origin": "gap-analysis", "tp": "2", "n_gpus": "2", "moe_tp": "4", "moe_ep": "1"}
    fields = {**_ROW, **experts, "id": "x", "model": "Qwen3-235B-A22B-FP8", "tpot_ms": "37.3"}
    (row,) = _read(tmp_path, "latency_inferencex.csv", fields).rows
    assert (row.setup.split.tp, row.setup.split.attention_dp, row.setup.concurrency) == (2, 2, 16)


@pytest.mark.parametrize(("number", "drafted"), [("SIL-01983", 2), ("SIL-02002", 0)])
def test_a_run_that_its_source_keeps_apart_from_the_plain_one_drafts(
    tmp_path: Path, number: str, drafted: int
) -> None:
    made = {
        "gpu": "B200-SXM-180GB",
        "engine": "sglang",
        "engine_version": "0.5.9",
        "origin": "inferencex-csv",
    }
    model = {"model": "DeepSeek-R1", "weights_precision": "fp8", "tp": "8", "n_gpus": "8", "tpot_ms": "6.7"}
    (row,) = _read(tmp_path, "latency_inferencex.csv", {**_ROW, **made, **model, "id": number}).rows
    assert row.setup.drafted == drafted


@pytest.mark.parametrize(
    ("engine", "version", "day", "told"),
    [
        ("vllm", "", "2025-10-29", "vllm-v1-async 0.10.2"),
        ("vllm", "0.11.0", "2025-10-29", "vllm-v1 0.11.0"),
        ("trtllm", "", "2025-11-02", "trtllm-pytorch 1.1.0rc2.post2"),
        ("sglang", "", "2025-11-10", "sglang 0.5.3rc1"),
        ("sglang", "", "2025-12-24", "sglang sglang"),
    ],
)
def test_a_run_that_names_no_version_has_that_of_its_days_image(
    tmp_path: Path, engine: str, version: str, day: str, told: str
) -> None:
    made = {"engine": engine, "engine_version": version, "measured": day, "origin": "inferencex-csv"}
    asked = {"model": "Llama-3.1-70B", "tp": "8", "n_gpus": "8", "tpot_ms": "6.7", "id": "x"}
    (row,) = _read(tmp_path, "latency_inferencex.csv", {**_ROW, **made, **asked}).rows
    assert version_of(row.setup) == told


@pytest.mark.parametrize(("label", "rows"), [("4xMi300x 1FP8-amd", 1), ("8xMi300x 2FP8-amd", 0)])
def test_one_copys_run_times_two_is_no_second_run(tmp_path: Path, label: str, rows: int) -> None:
    made = {"gpu": "MI300X", "model": "Llama-3.1-405B", "n_gpus": "8", "tp": "8", "weights_precision": "FP8"}
    value = {"metric": "output_throughput", "value": "322.83", "notes": f"label '{label}'"}
    truth = _read(tmp_path, "throughput.csv", {**_ROW, **made, **value, "id": "x"})
    assert len(truth.rows) == rows
    assert sum(truth.left_out.values()) == 1 - rows


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(InvalidInput, match="nowhere"):
        read_ground_truth(Path("nowhere"))


def test_fitting_brings_the_physics_closer_to_the_rows(truth: GroundTruth) -> None:
    given = evidence(usable(GroundTruth(list(truth.rows))))

    def error(logs: dict[str, float]) -> float:
        return float(abs(given.batch.log_metric(given.batch.rates(logs)) - given.log_values).mean())

    assert error(fit_quantities(given, iterations=4)) < 0.7 * error({})


def test_a_fit_from_several_starts_is_the_same_every_time_and_not_worse(truth: GroundTruth) -> None:
    given = evidence(usable(GroundTruth(list(truth.rows))))

    def error(logs: dict[str, float]) -> float:
        return float(abs(given.batch.log_metric(given.batch.rates(logs)) - given.log_values).mean())

    found = fit_from_anywhere(given, 3)
    assert found == fit_from_anywhere(given, 3)
    assert error(found) < 1.1 * error(fit_quantities(given, iterations=40))


def test_a_row_left_out_did_not_teach_its_own_prediction(truth: GroundTruth) -> None:
    """Making every row of one device ten times faster must not move that device's left-out predictions."""
    rows = [row for row in truth.rows if row.case.id.startswith(("TRT-050", "TRT-090"))]
    honest = left_out(prepare(rows), "device", quiet)
    lying = [
        type(row)(row.setup, row.value * (10 if row.setup.device.name == "L40S" else 1), row.source)
        for row in rows
    ]
    told = left_out(prepare(lying), "device", quiet)
    for before, after in zip(honest, told, strict=True):
        if before.row.setup.device.name == "L40S":
            assert after.residual - before.residual == pytest.approx(2.302585, abs=0.01)


def test_a_calibration_survives_its_file_with_its_marks(truth: GroundTruth, tmp_path: Path) -> None:
    few = [row for row in truth.rows if row.case.id.startswith(("TRT-050", "TRT-090"))]
    made = calibrate(GroundTruth(few), FOLDER, date(2026, 11, 23), quiet, ("device",))
    path = tmp_path / "calibration.json"
    path.write_bytes(encode(made))
    again = load_calibration(path)
    assert again.source_sha256 == made.source_sha256
    assert again.rows == made.rows
    listed = {(mark.name, mark.left_out): mark for mark in marks(again)}
    error = listed["throughput, median error", "device"]
    assert (error.goal, error.is_met) == ("≤ 15%", error.value <= 0.15)
    assert error.value == made.accuracy["device/throughput"]["median"]


def test_damaged_and_foreign_calibrations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a calibration"):
        decode(b"{", "x")
    foreign = encode(shipped_calibration()).replace(f'"schema": {SCHEMA}'.encode(), b'"schema": 999')
    with pytest.raises(InvalidInput, match="fit again"):
        decode(foreign, "x")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_calibration(tmp_path / "none.json")


def test_the_shipped_calibration_keeps_the_accuracy_that_the_log_claims() -> None:
    missed = {(mark.name, mark.left_out) for mark in marks(shipped_calibration()) if not mark.is_met}
    everyday = {name for name, left_out in missed if left_out == "setup"}
    assert everyday <= {"faster device by ttft"}
    assert ("throughput, median error", "device family") not in missed
    assert not {name for name, _ in missed if "interval" in name}


def test_accuracy_of_perfect_rows_is_zero(truth: GroundTruth) -> None:
    perfect = [LeftOut(row, 0.0) for row in truth.rows]
    assert dict(accuracy(perfect))["throughput"]["mean"] == 0


def test_what_a_model_does_on_a_version_is_learnt_wider_than_what_the_version_does_to_all() -> None:
    """A model's own way on a version must not be charged to the version, which unseen models share."""
    spreads = {trait.name: trait.spread for trait in traits(resolve(case()))}
    own = next(
        spread for name, spread in spreads.items() if name.startswith("speed:model=") and " version=" in name
    )
    shared = next(spread for name, spread in spreads.items() if name.startswith("speed:version="))
    assert own > 3 * shared
