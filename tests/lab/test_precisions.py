"""From what is known on disk to what is served; no engine runs here."""

from pathlib import Path

import msgspec
import pytest
from tests.precision.small import matrices, verdict, write_gguf

from outpace.hardware.machine import Machine, machine_name
from outpace.lab.gate import Side, engine_version
from outpace.lab.making import Product, Source, find_product, produce, source_of
from outpace.lab.precisions import AUTO_FORMATS, MOST_FITTED_PARAMETERS, Precisions, auto_formats
from outpace.lab.speed import Speed, SpeedStore
from outpace.precision.gguf_maker import make_gguf
from outpace.precision.recipes import recipe
from outpace.precision.verdict import Outcome, Verdict, VerdictStore
from outpace.values.clock import ManualClock
from outpace.values.errors import InvalidInput

MACHINE = Machine(
    processor="cpu", features=("avx2",), cores=2, memory_bytes=1, available_bytes=1, accelerators=()
)


class Installation:
    """A home with one model of the user's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = str(write_gguf(folder / "own.gguf", matrices()))
        self.source = source_of(self.model, folder)
        self.precisions = Precisions(folder, MACHINE, ManualClock())

    def knows(self, precision: str, speed: float, outcome: Outcome | None, kv: str = "f16") -> Product:
        """The format was made, measured and gated."""
        product = produce(self.source, precision, self.folder)
        figure = Speed(output_tokens_per_s=speed, output_tokens_per_cpu_s=speed, rounds=1, measured_at=0.0)
        SpeedStore(self.folder, machine_name(MACHINE)).keep(product.sha256, "f16", figure)
        if outcome:
            kept = verdict(outcome, precision, kv)
            about = msgspec.structs.replace(
                kept.subject,
                model=self.source.model,
                artifact_sha256=product.sha256,
                engine_version=engine_version(),
                machine=machine_name(MACHINE),
            )
            VerdictStore(self.folder).keep(msgspec.structs.replace(kept, subject=about))
        return product


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_before_anything_is_known_the_shipped_weights_serve(installation: Installation) -> None:
    chosen = installation.precisions.choose(installation.model)
    assert chosen.product.path == installation.source.path
    assert chosen.choice.is_proven
    assert find_product(installation.source, "q8_0", installation.folder) is None


def test_the_fastest_with_a_pass_serves(installation: Installation) -> None:
    installation.knows("f32", 50, None)
    installation.knows("q4_0", 160, "refuse")
    product = installation.knows("q8_0", 120, "pass")
    chosen = installation.precisions.choose(installation.model)
    assert chosen.product.path == product.path
    assert "2.40x f32" in chosen.choice.reason
    assert chosen.choice.verdict is not None


def test_what_is_fast_but_not_gated_is_named_and_not_served(installation: Installation) -> None:
    installation.knows("f32", 50, None)
    installation.knows("q4_0", 160, None)
    choice = installation.precisions.choose(installation.model).choice
    assert (choice.precision, [option.precision for option in choice.to_gate]) == ("f32", ["q4_0"])


def test_a_failed_canary_gives_way(installation: Installation) -> None:
    installation.knows("f32", 50, None)
    installation.knows("q8_0", 120, "pass")
    failed = frozenset({("q8_0", "f16")})
    assert installation.precisions.choose(installation.model, failed=failed).choice.precision == "f32"


def test_by_name_without_a_verdict_needs_the_flag(installation: Installation) -> None:
    with pytest.raises(InvalidInput, match="allow_unproven"):
        installation.precisions.choose(installation.model, "q4_0")
    chosen = installation.precisions.choose(installation.model, "q4_0", allows_unproven=True)
    assert not chosen.choice.is_proven
    assert chosen.product.precision == "q4_0"


def test_a_kv_format_is_proven_by_its_own_verdict(installation: Installation) -> None:
    installation.knows("q8_0", 120, "pass")
    with pytest.raises(InvalidInput):
        installation.precisions.choose(installation.model, "q8_0", "q8_0")
    installation.knows("q8_0", 120, "pass", kv="q8_0")
    chosen = installation.precisions.choose(installation.model, "q8_0", "q8_0")
    assert (chosen.choice.is_proven, chosen.choice.kv_precision) == (True, "q8_0")


def test_a_kv_format_by_name_takes_the_fastest_weights_that_are_proven_with_it(
    installation: Installation,
) -> None:
    installation.knows("f32", 50, "pass", kv="q8_0")
    installation.knows("q8_0", 120, "pass", kv="q8_0")
    choice = installation.precisions.choose(installation.model, "auto", "q8_0").choice
    assert (choice.precision, choice.kv_precision, choice.is_proven) == ("q8_0", "q8_0", True)


def test_an_unproven_kv_format_names_itself_the_gate_and_the_flag(installation: Installation) -> None:
    with pytest.raises(InvalidInput, match=r"--kv-precision q4_0.*allow_unproven") as refused:
        installation.precisions.choose(installation.model, "auto", "q4_0")
    assert refused.value.param == "kv_precision"
    chosen = installation.precisions.choose(installation.model, "auto", "q4_0", allows_unproven=True)
    assert (chosen.choice.is_proven, chosen.product.precision) == (False, "f32")
    with pytest.raises(InvalidInput, match="not known to llamacpp"):
        installation.precisions.choose(installation.model, "auto", "fp8", allows_unproven=True)


def test_a_faster_kv_format_with_a_pass_is_taken_by_itself(installation: Installation) -> None:
    installation.knows("f32", 50, None)
    product = installation.knows("q8_0", 120, "pass")
    installation.knows("q8_0", 120, "pass", kv="q8_0")
    figure = Speed(output_tokens_per_s=1, output_tokens_per_cpu_s=150, rounds=1, measured_at=0.0)
    SpeedStore(installation.folder, machine_name(MACHINE)).keep(product.sha256, "q8_0", figure)
    choice = installation.precisions.choose(installation.model).choice
    assert (choice.precision, choice.kv_precision) == ("q8_0", "q8_0")
    kept = installation.precisions.choose(installation.model, "auto", "f16").choice
    assert (kept.precision, kept.kv_precision) == ("q8_0", "f16")


def test_shipped_weights_that_miss_their_canary_give_way_to_their_exact_numbers(tmp_path: Path) -> None:
    shipped = str(tmp_path / "shipped.gguf")
    make_gguf(write_gguf(tmp_path / "own.gguf", matrices()), Path(shipped), recipe("q8_0"))
    source = source_of(shipped, tmp_path)
    precisions = Precisions(tmp_path, MACHINE, ManualClock())
    mark = tmp_path / "canaries" / f"{source.sha256}-f16.failed"
    mark.parent.mkdir()
    mark.write_text("canary: differs")
    choice = precisions.choose(shipped).choice
    assert (choice.precision, choice.is_proven) == ("f16", True)
    assert "canary failed on q8_0/f16" in choice.reason


def test_a_format_that_takes_minutes_to_fit_is_made_of_small_models_of_a_known_kind(
    installation: Installation,
) -> None:
    source = installation.source
    assert auto_formats(source) == ("f32", *AUTO_FORMATS)
    large = msgspec.structs.replace(source, parameters=MOST_FITTED_PARAMETERS + 1)
    assert "q4_fit" not in auto_formats(large)
    tensors = {**matrices(), "blk.0.attn_q.bias": matrices()["blk.0.attn_norm.weight"]}
    biased = source_of(str(write_gguf(installation.folder / "biased.gguf", tensors)), installation.folder)
    assert auto_formats(biased) == ("f32", "q4_0", "q4_mix", "q8_0")


def test_the_shipped_format_by_name_needs_nothing(installation: Installation) -> None:
    assert installation.precisions.choose(installation.model, "f32").choice.is_proven


def test_an_artifact_whose_canary_missed_is_not_served_until_it_passes_again(
    installation: Installation,
) -> None:
    installation.knows("f32", 50, None)
    product = installation.knows("q8_0", 120, "pass")
    mark = installation.folder / "canaries" / f"{product.sha256}-f16.failed"
    mark.parent.mkdir()
    mark.write_text("canary: differs")
    chosen = installation.precisions.choose(installation.model)
    assert chosen.choice.precision == "f32"
    assert "canary failed on q8_0/f16" in chosen.choice.reason
    mark.unlink()
    assert installation.precisions.choose(installation.model).choice.precision == "q8_0"


async def test_on_another_engine_a_proof_ends_with_the_first_pair_that_passes(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    async def judge(source: Source, side: Side) -> Verdict:
        asked.append((side.engine, side.precision, side.kv_precision))
        kept = verdict("pass" if side.precision == "q8_0" else "refuse", side.precision, side.kv_precision)
        about = msgspec.structs.replace(
            kept.subject,
            model=source.model,
            artifact_sha256=side.artifact_sha256,
            engine_version=engine_version(side.engine),
            machine=machine_name(MACHINE),
        )
        judged = msgspec.structs.replace(kept, subject=about)
        VerdictStore(installation.folder).keep(judged)
        return judged

    monkeypatch.setattr(installation.precisions, "gate", judge)
    passed = await installation.precisions.prove_on("openvino", installation.model)
    assert passed is not None
    assert (passed.outcome, passed.subject.precision, passed.subject.kv_precision) == ("pass", "q8_0", "f16")
    assert asked == [("openvino", name, "f16") for name in ("q8_row", "f32", "q8_0")]
    # What is known is not asked again.
    assert await installation.precisions.prove_on("openvino", installation.model) == passed
    assert len(asked) == 3
