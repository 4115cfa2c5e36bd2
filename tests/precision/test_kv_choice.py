"""Which KV format is taken, by the verdicts that there are."""

import msgspec
import pytest
from tests.precision.small import verdict

from outpace.precision.kv_choice import choose_kv, named_kv
from outpace.precision.verdict import Outcome, Verdict

FORMATS = ("u8", "f16")
ARTIFACT = verdict("pass").subject.artifact_sha256


def on(kv: str, outcome: Outcome, artifact: str = ARTIFACT) -> Verdict:
    kept = verdict(outcome, "q4_1", kv)
    about = msgspec.structs.replace(kept.subject, artifact_sha256=artifact)
    return msgspec.structs.replace(kept, subject=about)


@pytest.mark.parametrize(
    ("verdicts", "taken", "is_proven", "to_gate"),
    [
        ([], "f16", False, FORMATS),
        ([on("u8", "pass")], "u8", True, ("f16",)),
        ([on("u8", "refuse"), on("f16", "pass")], "f16", True, ()),
        ([on("u8", "undecided")], "f16", False, ("f16",)),
        ([on("f16", "refuse")], "f16", False, ("u8",)),
        # Of other bytes; and an older word that a newer one replaces.
        ([on("u8", "pass", "b" * 64)], "f16", False, FORMATS),
        ([on("u8", "refuse"), on("u8", "pass")], "f16", False, ("f16",)),
    ],
)
def test_the_smallest_with_a_pass_is_taken_else_the_whole_one(
    verdicts: list[Verdict], taken: str, is_proven: bool, to_gate: tuple[str, ...]
) -> None:
    choice = choose_kv(verdicts, ARTIFACT, FORMATS)
    assert (choice.kv_precision, choice.is_proven, choice.to_gate) == (taken, is_proven, to_gate)


def test_the_reason_tells_the_figures_and_why_the_smaller_one_was_left() -> None:
    choice = choose_kv([on("u8", "refuse"), on("f16", "pass")], ARTIFACT, FORMATS)
    assert choice.reason.startswith("KV f16: pass: KL")
    assert "u8: refuse" in choice.reason
    assert (
        choose_kv([], ARTIFACT, FORMATS).reason
        == "KV f16: no gate has judged it here yet; u8 is not gated here yet"
    )


def test_a_name_gives_that_format_and_what_is_known_of_it() -> None:
    known = [on("u8", "refuse"), on("f16", "pass")]
    assert named_kv(known, ARTIFACT, "u8").is_proven is False
    assert named_kv(known, ARTIFACT, "f16").is_proven
    assert named_kv(known, ARTIFACT, "bf16").to_gate == ("bf16",)
