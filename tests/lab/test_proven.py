"""What a deployment on OpenVINO gets, by the verdicts on disk; no engine runs here."""

from pathlib import Path

import msgspec
import pytest
from tests.precision.small import matrices, verdict, write_gguf

from outpace.catalogue.store import Record
from outpace.engines.facts import engine_version
from outpace.hardware.machine import detect, machine_name
from outpace.lab.proven import proven_kv, served_kv
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


def test_u8_serves_when_it_passed_on_this_engine_and_not_before(tmp_path: Path, weights: Path) -> None:
    judge(tmp_path, weights, "u8", "pass", engine="llamacpp")
    before = proven_kv(tmp_path, "openvino", "own", weights)
    assert (before.kv_precision, before.is_proven) == ("f16", False)
    judge(tmp_path, weights, "u8", "pass")
    after = proven_kv(tmp_path, "openvino", "own", weights)
    assert (after.kv_precision, after.is_proven) == ("u8", True)
    assert served_kv(tmp_path, "openvino", "own", weights, spec(kv_precision="u8")).is_proven


def test_u8_by_name_without_a_pass_needs_the_flag_and_names_the_gate(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"outpace gate own --engine openvino --kv-precision u8.*allow_unproven"
    ):
        served_kv(tmp_path, "openvino", "own", weights, spec(kv_precision="u8"))
    forced = served_kv(tmp_path, "openvino", "own", weights, spec(kv_precision="u8", allow_unproven=True))
    assert (forced.kv_precision, forced.is_proven) == ("u8", False)
    judge(tmp_path, weights, "u8", "refuse")
    with pytest.raises(InvalidInput, match="refuse: KL"):
        served_kv(tmp_path, "openvino", "own", weights, spec(kv_precision="u8"))
    with pytest.raises(InvalidInput, match="not known to openvino"):
        served_kv(tmp_path, "openvino", "own", weights, spec(kv_precision="q8_0"))


def test_settings_that_change_the_numbers_are_not_what_was_proven(tmp_path: Path, weights: Path) -> None:
    judge(tmp_path, weights, "u8", "pass")
    kv = served_kv(tmp_path, "openvino", "own", weights, spec(engine_settings={"activation_group": 0}))
    assert (kv.kv_precision, kv.is_proven) == ("f16", False)
    assert "activation_group" in kv.reason


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
