"""Published measurements as calibration rows; what cannot be compared is named and counted, never dropped silently."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from outpace.planner.accelmark import completed
from outpace.planner.cases import CASE_COLUMNS, Case
from outpace.planner.copies import Run, once
from outpace.planner.recipes import published_image
from outpace.planner.setups import Setup, resolve
from outpace.values.errors import InvalidInput

FILES = ("throughput.csv", "latency.csv", "latency_inferencex.csv")
_STATISTICS = {"mean": "mean", "p50": "p50", "p99": "p99", "mean_tpot": "mean", "p95": "p95"}

# InferenceX sends requests ahead of its measurement since; before, kernels were compiled within the first ones.
_WARMED_SINCE = "2026-01-21"
_NOT_WARMED = "no warm-up"
# Its client draws lengths evenly, from `int(0.8 * length)` to `length` (`--random-range-ratio 0.8` in every script and
# workflow from 2025-09-20 to 2026-08-21, read 2026-11-29). The table's other origin does not say how it measured.
_DRAWING_ORIGINS = ("inferencex-csv", "inferencex-db-dump")
# Its runs on GB200 went through Dynamo's `submit_disagg.sh`, and the template of runs on several nodes wrote all
# devices as tensor-parallel (`TP=$gpus`); counts and callers of the rows are those of that script (read at 2025-11-17).
_ALL_DEVICES_ORIGIN = "inferencex-csv"
# GPUStack's pages, a folder per model (`glm-4.x` for several); four sections were copied from one page to another.
_PAGE = re.compile(r"/performance-lab/([^/]+)/")
# The second result of "Choosing the Inference Engine" on its pages about Ascend is MindIE's (read 2026-11-30).
_MINDIE_ROWS = ("GPS-0244", "GPS-0285")
# dstack's rows of two copies are the one copy's times two, to the last of ten digits, in all 19 pairs.
_MULTIPLE = re.compile(r"label '\d+x\w+ [2-9]FP8")
_DRAWN = "lengths drawn from 0.8 to 1"
# The table's third origin gives the batch of one attention group; its experts lie on `moe_tp` x `moe_ep` devices, and
# where that is more than `tp` there are several groups (Qwen3-235B on two H200: 16 callers, or two groups of 8).
_GROUPED_ORIGIN = "gap-analysis"
# On 2026-03-25 InferenceX ran a list with multi-token prediction beside one without. The table's source also holds a
# dump of its database, whose configurations are numbered and have none with it (not one row of days or versions that
# ran only those is there). These ran on that day at loads whose plain run is in the dump, and are other runs
# (`silicon_sample.csv` of aiconfigurator at 095f58a51c, read 2026-11-30).
_DRAFTING_ROWS = frozenset(
    f"SIL-{number:05d}"
    for number in (
        *(1968, 1976, 1983, 1991, 1992, 2008, 2010, 2021, 2022, 2026, 2030),
        *(3103, 3107, 3122, 3185, 3369, 3989),
    )
)
_DRAFTING = "multi-token prediction"


@dataclass(frozen=True)
class Measurement:
    """A setup with its measured value in the unit of its metric, and where it was published."""

    setup: Setup
    value: float
    source: str

    @property
    def case(self) -> Case:
        """The case as written."""
        return self.setup.case


@dataclass
class GroundTruth:
    """All usable rows, and how many were left out for which reason."""

    rows: list[Measurement] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_ground_truth(folder: Path) -> GroundTruth:
    """Every measurement under `folder`, once. Raises InvalidInput when a file is missing."""
    truth = GroundTruth()
    found = [_taken(truth, name, fields) for name in FILES for fields in _rows(folder / name)]
    runs, again = once([run for run in found if run.values])
    truth.left_out.update(again)
    for run in runs:
        pairs = zip(run.setups, run.values, strict=True)
        truth.rows.extend(Measurement(setup, value, run.source) for setup, value in pairs)
    return truth


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            yield from csv.DictReader(lines)
    except OSError as problem:
        raise InvalidInput("ground-truth", f"{path} cannot be read: {problem}") from problem


def _taken(truth: GroundTruth, name: str, fields: dict[str, str]) -> Run:
    """What a row says; what of it cannot be compared is counted with its reason."""
    setups: list[Setup] = []
    values: list[float] = []
    reason = _reason_to_leave_out(name, fields)
    if reason:
        truth.left_out[reason] += 1
        return Run((), (), fields["source"])
    for case, value in _questions(name, fields):
        try:
            setups.append(resolve(case))
            values.append(value)
        except InvalidInput as problem:
            truth.left_out[problem.message[:110]] += 1
    return Run(tuple(setups), tuple(values), fields["source"])


def _reason_to_leave_out(name: str, fields: dict[str, str]) -> str:
    notes = fields["notes"]
    if "SUSPECT" in notes:
        return "marked SUSPECT in the source list"
    if fields.get("mode") == "disagg" or _is_split(fields):
        return "disaggregated: concurrency and decode layout are not given"
    if "speculative decoding ON" in notes:
        return "speculation on: its acceptance is not given"
    if "no XQA" in notes:
        return "a kernel switched off on purpose"
    if fields.get("metric") == "throughput_as_reported":
        return "the source does not say whether input tokens count"
    if fields.get("metric", "").startswith("speedup") or "CLAIM UNVERIFIED" in notes:
        return "a ratio, not a rate"
    page = _PAGE.search(fields["source"])
    if page and not fields["model"].lower().startswith(page[1].rstrip("x")):
        return "stands on the page of another model, and runs like that one"
    if _MULTIPLE.search(notes):
        return "one copy's run, which the source multiplies for several copies"
    if fields["gpu"].startswith("mixed:"):
        return "devices of two kinds in one figure"
    return ""


def _is_split(fields: dict[str, str]) -> bool:
    """Rows of a 72-way board that name their mode wrongly: prefill and decode workers, counted together."""
    return fields.get("origin") == _ALL_DEVICES_ORIGIN and fields["gpu"].startswith("GB")


def _questions(name: str, fields: dict[str, str]) -> Iterable[tuple[Case, float]]:
    if name == "latency_inferencex.csv":
        return _inferencex(fields)
    base = {column: fields.get(column) or "" for column in CASE_COLUMNS}
    if _is_mindie(fields):
        base["engine"] = "MindIE"
    case = completed(Case(**base))
    if name == "throughput.csv":
        return [(case, float(fields["value"]))]
    return _latencies(case, fields)


def _is_mindie(fields: dict[str, str]) -> bool:
    """GPUStack's pages on Ascend compare two engines, and the table names one for all."""
    return "in MindIE" in fields["notes"] or fields["id"] in _MINDIE_ROWS


def _latencies(base: Case, fields: dict[str, str]) -> Iterator[tuple[Case, float]]:
    for column, stat in (("ttft_ms", "ttft_stat"), ("itl_ms", "itl_stat")):
        value = fields[column]
        if value and float(value) > 0:
            yield base.asking(f"{column}_{_STATISTICS[fields[stat]]}"), float(value)
    burst = fields["batch_or_concurrency"].startswith("all(")
    if fields["output_tok_s"] and burst:
        yield base.asking("output_throughput"), float(fields["output_tok_s"])


def _inferencex(fields: dict[str, str]) -> Iterator[tuple[Case, float]]:
    tp = _degree(fields["tp"])
    layout = f"attention-dp={_degree(fields['attn_dp'])} ep={_degree(fields['moe_ep'])}; {fields['notes']}"
    if fields["origin"] in _DRAWING_ORIGINS:
        layout = f"{_DRAWN}; {layout}"
    version = fields["engine_version"]
    image = published_image(fields["engine"], fields["measured"])
    if image and not version:
        version, layout = image.version, f"{layout}; {image.flags}"
    if fields["measured"] and fields["measured"] < _WARMED_SINCE:
        layout = f"{layout}; {_NOT_WARMED}"
    if fields["measured"]:
        layout = f"{layout}; measured {fields['measured']}"
    if fields["id"] in _DRAFTING_ROWS:
        layout = f"{layout}; {_DRAFTING}"
    groups = _attention_groups(fields)
    base = Case(
        id=fields["id"],
        model=fields["model"],
        gpu=fields["gpu"],
        n_gpus=str(groups * int(tp)) if groups > 1 else _degree(fields["n_gpus"]) or tp,
        tp=tp,
        pp=_degree(fields["pp"]),
        weights_precision=fields["weights_precision"],
        engine=fields["engine"],
        engine_version=version,
        isl=fields["isl"],
        osl=fields["osl"],
        batch_or_concurrency=str(groups * int(fields["batch_or_concurrency"]))
        if groups > 1
        else fields["batch_or_concurrency"],
        notes=layout,
    )
    for column, metric in (("ttft_ms", "ttft_ms_mean"), ("tpot_ms", "itl_ms_mean")):
        if fields[column] and float(fields[column]) > 0:
            yield base.asking(metric), float(fields[column])


def _attention_groups(fields: dict[str, str]) -> int:
    """Groups of attention data parallelism that a row does not name but its experts' devices tell; else 1."""
    tp, spread = (int(_degree(fields["tp"]) or 0), 1)
    for column in ("moe_tp", "moe_ep"):
        spread *= int(_degree(fields[column]) or 0)
    return spread // tp if fields["origin"] == _GROUPED_ORIGIN and tp and spread > tp else 1


def _degree(written: str) -> str:
    return str(int(float(written))) if written and float(written) > 0 else ""
