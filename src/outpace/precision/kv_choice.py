"""At which format an engine keeps keys and values, by what is proven here. Pure functions."""

from collections.abc import Sequence

import msgspec

from outpace.precision.verdict import Verdict


class KvChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A KV format for one engine and artifact, whether a pass backs the two, and why."""

    kv_precision: str
    is_proven: bool
    reason: str
    verdict: Verdict | None = None
    # Formats that no gate has judged yet, in the order in which they are worth it.
    to_gate: tuple[str, ...] = ()


def choose_kv(verdicts: Sequence[Verdict], artifact_sha256: str, formats: Sequence[str]) -> KvChoice:
    """The first of `formats` with a passing verdict, else the last.

    `verdicts` hold for the engine and machine in question, newest first; `formats` go from the best to one that
    rounds nothing.
    """
    judged = {kv: _newest(verdicts, artifact_sha256, kv) for kv in formats}
    to_gate = tuple(kv for kv, verdict in judged.items() if verdict is None)
    taken = next((kv for kv, verdict in judged.items() if is_pass(verdict)), formats[-1])
    better = [_why_not(kv, judged[kv]) for kv in formats[: formats.index(taken)]]
    return KvChoice(
        kv_precision=taken,
        is_proven=is_pass(judged[taken]),
        reason="; ".join([f"KV {taken}: {_told(judged[taken])}", *better]),
        verdict=judged[taken],
        to_gate=to_gate,
    )


def named_kv(verdicts: Sequence[Verdict], artifact_sha256: str, kv_precision: str) -> KvChoice:
    """The format that was asked for, with what is proven of it."""
    return choose_kv(verdicts, artifact_sha256, (kv_precision,))


def is_pass(verdict: Verdict | None) -> bool:
    """A gate let it through."""
    return verdict is not None and verdict.outcome == "pass"


def _newest(verdicts: Sequence[Verdict], artifact_sha256: str, kv: str) -> Verdict | None:
    wanted = (artifact_sha256, kv)
    return next((v for v in verdicts if (v.subject.artifact_sha256, v.subject.kv_precision) == wanted), None)


def _told(verdict: Verdict | None) -> str:
    return verdict.summary if verdict else "no gate has judged it here yet"


def _why_not(kv: str, verdict: Verdict | None) -> str:
    return f"{kv} is not gated here yet" if verdict is None else f"{kv}: {verdict.outcome}, {verdict.reason}"
