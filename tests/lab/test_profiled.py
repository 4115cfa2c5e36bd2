from pathlib import Path

import msgspec
import pytest
from tests.precision.small import matrices, write_gguf

from outpace.lab.profiled import (
    DISTURBED,
    PARTIAL,
    Profiled,
    Variant,
    artifact_name,
    conditions_of,
    is_partial,
)
from outpace.values.errors import InvalidInput
from outpace.values.profile import LoadPoint, Profile, SpeculationPoint


class Rig:
    """A home with one model and, when told, its profile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profiled = Profiled(folder / "artifacts", folder / "profiles")
        self.path = write_gguf(folder / "own.gguf", matrices())
        self.variant = Variant(
            model=str(self.path),
            artifact_path=str(self.path),
            engine="llamacpp",
            engine_version="llama 1",
            threads=2,
            settings={"parallel": 8, "speculation": "ngram_simple", "cache_type_k": "q8_0"},
        )

    def keep(self, code: float, chat: float) -> None:
        points = [
            SpeculationPoint(method="ngram", workload=workload, users=32, gain=gain)
            for workload, gain in (("code", code), ("chat", chat))
        ]
        self.profiled.store.keep(
            Profile(
                conditions=conditions_of(self.variant, self.profiled._machine),
                measured_at=1.0,
                took_s=1.0,
                load_s=1.0,
                prefill_tokens_per_s=1.0,
                points=tuple(LoadPoint(users=users, output_tokens_per_s=1.0) for users in (1, 2)),
                speculation=tuple(points),
            )
        )


def guesses(*measured: tuple[str, int]) -> tuple[SpeculationPoint, ...]:
    return tuple(
        SpeculationPoint(method="ngram", workload=workload, users=users, gain=1.0)
        for workload, users in measured
    )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_auto_is_off_until_a_profile_shows_that_it_wins(rig: Rig) -> None:
    before = rig.profiled.tune("auto", rig.variant)
    assert (before.method, before.settings) == (None, {})
    assert "not measured yet" in before.reason
    rig.keep(code=2.0, chat=1.0)
    after = rig.profiled.tune("auto", rig.variant)
    assert after.method == "ngram"
    assert after.settings == {"speculation": "ngram_mod"}
    rig.keep(code=2.0, chat=0.8)
    assert rig.profiled.tune("auto", rig.variant).method is None


@pytest.mark.parametrize(
    ("engine", "measured", "is_part"),
    [
        ("openvino", [], True),
        ("openvino", [("code", 1)], True),
        ("openvino", [("code", 1), ("chat", 1)], False),
        ("llamacpp", [("code", 1), ("chat", 1)], True),
        ("llamacpp", [("code", 1), ("chat", 1), ("code", 16), ("chat", 16)], False),
        # It guesses nothing.
        ("echo", [], False),
    ],
)
def test_a_profile_by_which_guesses_cannot_be_judged_is_a_part_of_one(
    rig: Rig, engine: str, measured: list[tuple[str, int]], is_part: bool
) -> None:
    rig.keep(code=1.0, chat=1.0)
    known = rig.profiled.find(rig.variant).profile
    assert known is not None
    conditions = msgspec.structs.replace(known.conditions, engine=engine)
    part = msgspec.structs.replace(known, conditions=conditions, speculation=guesses(*measured))
    assert is_partial(part) == is_part
    # More at once may be better still.
    wider = (*known.points, LoadPoint(users=4, output_tokens_per_s=2.0))
    assert is_partial(msgspec.structs.replace(part, points=wider))
    # It counts as far as it goes, and says that it does not go far.
    assert rig.profiled.find(rig.variant).reason == PARTIAL


@pytest.mark.parametrize(
    ("others_share", "tries", "is_again"),
    [(None, 1, False), (0.1, 1, False), (0.5, 1, True), (0.5, 2, True), (0.5, 3, False)],
)
def test_what_was_measured_beside_other_programs_is_measured_again_a_few_times(
    rig: Rig, others_share: float | None, tries: int, is_again: bool
) -> None:
    rig.keep(code=1.0, chat=1.0)
    known = rig.profiled.find(rig.variant).profile
    assert known is not None
    points = guesses(("code", 1), ("chat", 1), ("code", 16), ("chat", 16))
    whole = msgspec.structs.replace(known, speculation=points, others_share=others_share, tries=tries)
    rig.profiled.store.keep(whole)
    found = rig.profiled.find(rig.variant)
    # Until then it is what is known.
    assert found.profile == whole
    assert found.reason == (DISTURBED if is_again else None)


def test_a_name_is_taken_without_a_profile(rig: Rig) -> None:
    tuned = rig.profiled.tune("ngram-simple", rig.variant)
    assert tuned.settings == {"speculation": "ngram_simple"}
    assert rig.profiled.tune("off", rig.variant).method is None


def test_the_way_of_speculation_is_no_condition_of_the_profile(rig: Rig) -> None:
    conditions = conditions_of(rig.variant, "here")
    assert conditions.settings == {"threads": 2, "cache_type_k": "q8_0"}


def test_a_draft_with_the_same_tokens_is_taken_and_another_refused(rig: Rig) -> None:
    same = write_gguf(rig.folder / "small.gguf", matrices())
    tuned = rig.profiled.tune(f"draft:{same}", rig.variant)
    assert tuned.settings == {"speculation": "draft", "draft_path": str(same)}
    other = rig.folder / "other.gguf"
    other.write_bytes(same.read_bytes().replace(b"<|end|>", b"<|END|>"))
    with pytest.raises(InvalidInput, match="another tokenizer than"):
        rig.profiled.tune(f"draft:{other}", rig.variant)


def test_a_model_without_text_cannot_speculate(rig: Rig) -> None:
    import msgspec

    silent = msgspec.structs.replace(rig.variant, is_text=False)
    assert rig.profiled.tune("auto", silent).method is None
    with pytest.raises(InvalidInput, match="writes no text"):
        rig.profiled.tune("ngram", silent)


def test_an_artifact_is_named_by_its_digest_and_a_file_by_its_state(tmp_path: Path) -> None:
    digest = "ab" * 32
    assert artifact_name(Path("/home") / "sha256" / digest / "weights.gguf") == digest
    file = tmp_path / "own.gguf"
    file.write_bytes(b"1234")
    assert artifact_name(file).startswith("file of 4 bytes")
