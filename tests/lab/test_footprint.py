"""What a replica is reckoned to hold."""

from pathlib import Path

from tests.weights import smollm2_gguf  # noqa: F401  # a fixture

from outpace.catalogue import ArtifactStore
from outpace.catalogue.resolve import resolve
from outpace.engines.openvino_config import graphs_that_guess
from outpace.lab.footprint import replica_bytes
from outpace.values.units import MIB


def test_many_sequences_share_eight_contexts_by_pages(tmp_path: Path, smollm2_gguf: Path) -> None:  # noqa: F811
    found = resolve(str(smollm2_gguf), "auto", ArtifactStore(tmp_path))
    few = replica_bytes(found, "llamacpp", smollm2_gguf, 8, 4096)
    many = replica_bytes(found, "openvino", smollm2_gguf, 32, 4096)
    # 30 layers of 3 heads of 64, keys and values at 2 bytes.
    assert few == smollm2_gguf.stat().st_size + 8 * 4096 * 23_040 + 64 * MIB
    assert many - few == (576 - 64) * MIB
    assert replica_bytes(found, "openvino", smollm2_gguf, 2, 4096) < many


def test_what_guesses_holds_keys_twice_and_small_weights_three_times(
    tmp_path: Path,
    smollm2_gguf: Path,  # noqa: F811
) -> None:
    found = resolve(str(smollm2_gguf), "auto", ArtifactStore(tmp_path))
    plain, guessing = (
        replica_bytes(found, "openvino", smollm2_gguf, 2, 1024, guesses=guesses) for guesses in (False, True)
    )
    assert guessing - plain == 2 * smollm2_gguf.stat().st_size + 2 * 1024 * 23_040


def test_a_draft_model_has_weights_and_keys_of_its_own(tmp_path: Path, smollm2_gguf: Path) -> None:  # noqa: F811
    found = resolve(str(smollm2_gguf), "auto", ArtifactStore(tmp_path))
    plain, drafting = (
        replica_bytes(found, "llamacpp", smollm2_gguf, 8, 1024, draft_path=path)
        for path in ("", str(smollm2_gguf))
    )
    assert drafting - plain == smollm2_gguf.stat().st_size + 8 * 1024 * 23_040


def test_large_weights_are_held_twice_by_what_guesses() -> None:
    assert [graphs_that_guess(size) for size in (0, 512 * MIB, 512 * MIB + 1, 40 << 30)] == [2, 2, 1, 1]
