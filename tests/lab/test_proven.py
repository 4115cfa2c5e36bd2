"""What a deployment on OpenVINO gets, by the verdicts on disk; no engine runs here."""

from pathlib import Path

import msgspec
import pytest
from tests.precision.small import matrices, verdict, write_gguf

from outpace.catalogue.store import Record
from outpace.engines.facts import engine_version
from outpace.hardware.machine import detect, machine_name
from outpace.lab.making import produce, source_of
from outpace.lab.proven import Served, formats_best_first, served, shipped_weights
from outpace.precision.artifacts import digest_of, sha256_of
from outpace.precision.verdict import Outcome, VerdictStore
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "own.gguf", matrices())


def judge(artifacts: Path, weights: Path, kv: str, outcome: Outcome, engine: str = "openvino") -> None:
    kept = verdict(outcome, "q4_1", kv)
    about = msgspec.structs.replace(
        kept.subject,
        model="own",
        artifact_sha256=digest_of(weights),
        engine=engine,
        engine_version=engine_version(engine) or "none",
        machine=machine_name(detect()),
    )
    VerdictStore(artifacts).keep(msgspec.structs.replace(kept, subject=about))


def spec(**fields: object) -> DeploymentSpec:
    return DeploymentSpec(name="d", model="own.gguf", engine="openvino", **fields)  # type: ignore[arg-type]  # a test's


def on_openvino(artifacts: Path, weights: Path, **fields: object) -> Served:
    return served(artifacts, "openvino", "own", shipped_weights("f32", weights), spec(**fields))


def test_a_pass_counts_on_this_engine_only_and_8_bit_of_keys_is_taken_by_name_only(
    tmp_path: Path, weights: Path
) -> None:
    judge(tmp_path, weights, "f16", "pass", engine="llamacpp")
    judge(tmp_path, weights, "u8", "pass")
    before = on_openvino(tmp_path, weights).kv
    assert (before.kv_precision, before.is_proven) == ("f16", False)
    by_name = on_openvino(tmp_path, weights, kv_precision="u8")
    assert by_name.fields("openvino")["engine_settings"] == {"kv_cache": "u8"}
    assert (by_name.kv.is_proven, by_name.is_made) == (True, False)
    judge(tmp_path, weights, "f16", "pass")
    after = on_openvino(tmp_path, weights).kv
    assert (after.kv_precision, after.is_proven) == ("f16", True)


def test_u8_by_name_without_a_pass_needs_the_flag_and_names_the_gate(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"gate own.gguf --engine openvino.*--kv-precision u8.*allow_unproven"
    ):
        on_openvino(tmp_path, weights, kv_precision="u8")
    forced = on_openvino(tmp_path, weights, kv_precision="u8", allow_unproven=True).kv
    assert (forced.kv_precision, forced.is_proven) == ("u8", False)
    judge(tmp_path, weights, "u8", "refuse")
    with pytest.raises(InvalidInput, match="refuse: KL"):
        on_openvino(tmp_path, weights, kv_precision="u8")
    with pytest.raises(InvalidInput, match="not known to openvino"):
        on_openvino(tmp_path, weights, kv_precision="q8_0")


def test_settings_that_change_the_numbers_are_not_what_was_proven(tmp_path: Path, weights: Path) -> None:
    judge(tmp_path, weights, "f16", "pass")
    kv = on_openvino(tmp_path, weights, engine_settings={"activation_group": 0}).kv
    assert (kv.kv_precision, kv.is_proven) == ("f16", False)
    assert "activation_group" in kv.reason


def test_refused_weights_give_way_to_proven_ones_made_of_them(tmp_path: Path, weights: Path) -> None:
    judge(tmp_path, weights, "f16", "refuse")
    made = produce(source_of(str(weights), tmp_path), "q8_0", tmp_path).path
    assert on_openvino(tmp_path, weights).weights.path == weights
    judge(tmp_path, made, "f16", "pass")
    taken = on_openvino(tmp_path, weights)
    assert (taken.weights.path, taken.weights.precision, taken.kv.kv_precision) == (made, "q8_0", "f16")
    fields = taken.fields("openvino")
    assert fields["is_proven"]
    assert fields["variant"] == f"{digest_of(made)[:12]}+f16"
    assert "f32: KV f16" in fields["precision_reason"]


def test_wide_weights_are_taken_at_8_bit_by_row_and_narrow_ones_as_they_are(
    tmp_path: Path, weights: Path
) -> None:
    made = {
        name: produce(source_of(str(weights), tmp_path), name, tmp_path).path for name in ("q8_row", "q8_0")
    }
    for path in (*made.values(), weights):
        judge(tmp_path, path, "f16", "pass")
    assert on_openvino(tmp_path, weights).weights.path == made["q8_row"]
    narrow = served(tmp_path, "openvino", "own", shipped_weights("q4_1", weights), spec())
    assert narrow.weights.path == weights
    # Of what is made, the one by row comes first; it gives way when it is refused.
    judge(tmp_path, weights, "f16", "refuse")
    narrow = served(tmp_path, "openvino", "own", shipped_weights("q4_1", weights), spec())
    assert narrow.weights.path == made["q8_row"]
    judge(tmp_path, made["q8_row"], "f16", "refuse")
    assert on_openvino(tmp_path, weights).weights.path == made["q8_0"]


def test_formats_are_tried_best_first() -> None:
    assert formats_best_first("q4_1") == ("q4_1", "q8_row", "q8_0")
    assert formats_best_first("q8_0") == ("q8_row", "q8_0")
    assert formats_best_first("f16") == ("q8_row", "f16", "q8_0")


def test_a_made_format_by_name_must_be_here_and_proven(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(InvalidInput, match="outpace quantize"):
        on_openvino(tmp_path, weights, precision="q8_0")
    made = produce(source_of(str(weights), tmp_path), "q8_0", tmp_path).path
    with pytest.raises(InvalidInput, match=r"--precision q8_0 --kv-precision f16"):
        on_openvino(tmp_path, weights, precision="q8_0", kv_precision="f16")
    judge(tmp_path, made, "f16", "pass")
    assert on_openvino(tmp_path, weights, precision="q8_0").kv.is_proven


def test_an_artifact_is_named_by_its_content(tmp_path: Path, weights: Path) -> None:
    assert digest_of(weights) == sha256_of(weights)
    pulled = tmp_path / ("c" * 64) / "weights.gguf"
    pulled.parent.mkdir()
    pulled.write_bytes(b"GGUF")
    assert digest_of(pulled) == "c" * 64
    # As the catalogue's store writes it.
    record = Record(sha256="d" * 64, size_bytes=4, mtime_ns=1, inode=1, verified_at=1.0)
    (pulled.parent / "artifact.json").write_bytes(msgspec.json.encode(record))
    assert digest_of(pulled) == "d" * 64
    folder = tmp_path / "openvino"
    folder.mkdir()
    (folder / "openvino_model.xml").write_bytes(b"1")
    first = digest_of(folder)
    (folder / "openvino_model.bin").write_bytes(b"2")
    assert digest_of(folder) != first
