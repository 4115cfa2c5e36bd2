"""Predictions in bulk: every case gets a number, a zero with a reason, or nothing with a reason."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from outpace.hardware.devices import device
from outpace.planner.calibration import Calibration
from outpace.planner.cases import CASE_COLUMNS, Case
from outpace.planner.estimate import Estimate, estimate_all, in_flight
from outpace.planner.setups import Quantity, Setup, parse_metric, resolve
from outpace.planner.speculation import gain_at, noted_speculation
from outpace.precision.memory import kv_bytes_per_sequence, kv_shards
from outpace.values.errors import InvalidInput
from outpace.values.units import GB

ANSWER_COLUMNS = ("predicted", "low", "high", "unit", "basis", "reason")
# Columns whose impossible value means that the case cannot run, which is known: zero. The rest is not known.
_CANNOT_RUN = ("tp", "pp", "memory")


@dataclass(frozen=True)
class Answer:
    """A case with its estimate, or why there is none; `runs` is False when it cannot run at all."""

    case: Case
    estimate: Estimate | None
    reason: str
    runs: bool = True


def predict(cases: Sequence[Case], calibration: Calibration) -> list[Answer]:
    """Answers in the order of the cases; a bad case is marked and the rest goes on.

    Speculation that a case notes with its acceptance changes throughput and ITL, not the first token.
    """
    parts = [_parts(case) for case in cases]
    setups = [setup for part in parts if isinstance(part, list) for setup in part]
    estimates = iter(estimate_all(setups, calibration))
    answers = []
    for case, part in zip(cases, parts, strict=True):
        if isinstance(part, Answer):
            answers.append(part)
        else:
            found = [_speculated(setup, next(estimates), calibration) for setup in part]
            answers.append(_answer(case, part, found))
    return answers


def _parts(case: Case) -> list[Setup] | Answer:
    """The setups that a case adds up (two for mixed devices), or its refusal."""
    try:
        setups = [resolve(part) for part in _unmixed(case)]
        for setup in setups:
            _check_fits(setup)
        noted_speculation(case.notes)
    except InvalidInput as problem:
        reason = problem.message.removeprefix("memory: ")
        return Answer(case, None, reason, runs=problem.param not in _CANNOT_RUN)
    return setups


def _speculated(setup: Setup, plain: Estimate, calibration: Calibration) -> Estimate:
    speculation = noted_speculation(setup.case.notes)
    if speculation is None or setup.metric.quantity is Quantity.TTFT:
        return plain
    gain = gain_at(setup, speculation, in_flight(setup, calibration), calibration)
    factor = gain if setup.metric.quantity is Quantity.THROUGHPUT else 1 / gain
    return replace(plain, value=plain.value * factor, low=plain.low * factor, high=plain.high * factor)


def _unmixed(case: Case) -> list[Case]:
    """A case on `mixed:A (x8), B (x16)` as one case per kind of device."""
    if not case.gpu.lower().startswith("mixed:"):
        return [case]
    found = re.findall(r"([^,]+?)\s*\(x(\d+)\)", case.gpu.partition(":")[2])
    if not found:
        raise InvalidInput("gpu", f"{case.gpu!r} should read `mixed:NAME (x8), NAME (x16)`")
    total = sum(int(count) for _, count in found)
    paced = float(case.request_rate_rps) if case.request_rate_rps.replace(".", "", 1).isdigit() else 0.0
    return [
        replace(
            case,
            gpu=device(name.strip()).name,
            n_gpus=count,
            request_rate_rps=str(paced * int(count) / total) if paced else case.request_rate_rps,
        )
        for name, count in found
    ]


def _check_fits(setup: Setup) -> None:
    """Refuse what cannot hold its weights and one sequence even with every byte of the device."""
    use = setup.memory
    tokens = max(1, round(setup.isl + setup.osl))
    sequence = kv_bytes_per_sequence(setup.shape, tokens, setup.kv)
    sequence /= kv_shards(setup.shape, setup.split) * setup.split.pp
    needed = use.weights_bytes + sequence
    if needed > use.capacity_bytes:
        raise InvalidInput("memory", _shortage(setup, sequence, tokens))


def _shortage(setup: Setup, sequence_bytes: float, tokens: int) -> str:
    use = setup.memory
    return (
        f"does not fit: {setup.shape.name} at {setup.weights.name} needs {use.weights_bytes / GB:.1f} GB of weights "
        f"and {sequence_bytes / GB:.2f} GB for one sequence of {tokens} tokens on each of {setup.split.devices} x "
        f"{setup.device.name}, which has {use.capacity_bytes / GB:.1f} GB; use more devices or a smaller format"
    )


def _answer(case: Case, setups: list[Setup], estimates: list[Estimate]) -> Answer:
    reason = "; ".join(dict.fromkeys(note for setup in setups for note in _remarks(setup)))
    if len(estimates) == 1:
        return Answer(case, estimates[0], reason)
    return Answer(case, _together(setups, estimates), reason)


def _remarks(setup: Setup) -> list[str]:
    remarks = [setup.reading] if setup.reading else []
    if "speculative decoding on" in setup.case.notes.lower() and not noted_speculation(setup.case.notes):
        remarks.append("predicted without speculation: its draft_len and acceptance_rate are not in notes")
    longest = setup.shape.context_tokens
    if setup.isl + setup.osl > longest:
        # Speed tests run past the trained context; a deployment cannot, and `plan` refuses it.
        remarks.append(f"beyond the {longest} tokens of {setup.shape.name}'s context")
    if not setup.memory.fits:
        remarks.append("tight: leaves less than engines usually reserve")
    if "disagg" in setup.case.notes.lower():
        remarks.append("predicted as one pool; separate prefill and decode pools are not modelled")
    if not setup.case.tp and setup.case.n_gpus and setup.split.devices > 1:
        remarks.append(f"tp not given, taken as {setup.split.tp}")
    return remarks


def _together(setups: list[Setup], estimates: list[Estimate]) -> Estimate:
    """Throughputs of device kinds add up; a latency is what a request sees on average."""
    first = estimates[0]
    if parse_metric(setups[0].case.metric).quantity is Quantity.THROUGHPUT:
        weights = [1.0] * len(estimates)
    else:
        total = sum(setup.replicas for setup in setups)
        weights = [setup.replicas / total for setup in setups]

    def together(name: str) -> float:
        return math.fsum(weight * getattr(one, name) for weight, one in zip(weights, estimates, strict=True))

    return Estimate(together("value"), together("low"), together("high"), first.unit, first.basis)


def write_answers(answers: Iterable[Answer], target: TextIO) -> None:
    """The case file's columns with the answer's, one line per case in the same order."""
    table = csv.writer(target)
    table.writerow((*CASE_COLUMNS, *ANSWER_COLUMNS))
    for answer in answers:
        table.writerow((*(getattr(answer.case, name) for name in CASE_COLUMNS), *answer_fields(answer)))


def answer_fields(answer: Answer) -> tuple[str, ...]:
    """The answer as text: empty when not known, zero when it cannot run."""
    found = answer.estimate
    if found:
        return (
            _short(found.value),
            _short(found.low),
            _short(found.high),
            found.unit,
            found.basis,
            answer.reason,
        )
    if not answer.runs:
        return (
            "0",
            "0",
            "0",
            parse_metric(answer.case.metric).unit,
            "memory and layout arithmetic",
            answer.reason,
        )
    return ("", "", "", "", "", answer.reason)


def _short(value: float) -> str:
    return f"{value:.6g}"
