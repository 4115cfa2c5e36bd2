"""What a replica is reckoned to hold."""

from pathlib import Path

from tests.weights import smollm2_gguf  # noqa: F401  # a fixture

from outpace.catalogue import ArtifactStore
from outpace.catalogue.resolve import resolve
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
