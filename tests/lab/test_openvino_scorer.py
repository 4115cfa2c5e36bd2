"""OpenVINO judged for real: what it says and what it finds likely agree, faithful weights pass, broken ones do not."""

import json
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.weights import made_artifacts, smollm2_gguf

from outpace.lab.candidates import side_on
from outpace.lab.gate import GateOrder, Side, gate, require_engine
from outpace.lab.making import produce, source_of
from outpace.lab.openvino_scorer import openvino_scorer
from outpace.lab.replica import LabVariant
from outpace.precision.artifacts import digest_of
from outpace.precision.items import Item, ItemSet, Turn, shipped_items
from outpace.precision.limits import limits_sha256
from outpace.precision.measures import compare
from outpace.precision.verdict import VerdictStore
from outpace.values.clock import SystemClock
from outpace.values.errors import EngineFailed, InvalidInput

__all__ = ["smollm2_gguf"]

SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
NUM_ITEMS = 48
NUM_ITEMS_OF_A_LOOK = 16
NUM_LAYERS = 30
# Keys and values at 16 bit, by the shape: 3 heads of 64.
WHOLE_KV_BYTES = 2 * 2 * NUM_LAYERS * 3 * 64


def item(text: str, **fields: object) -> Item:
    return Item(id=text[:40], messages=(Turn("user", text),), **fields)  # type: ignore[arg-type]  # a test's fields


def variant(path: Path, kv: str = "f16", context_tokens: int = 512) -> LabVariant:
    return LabVariant(
        model="m",
        artifact_path=path,
        context_tokens=context_tokens,
        parallel=4,
        artifacts_dir=str(made_artifacts()),
        engine_settings={"kv_cache": kv},
    )


async def test_following_its_own_continuation_it_finds_what_it_said(smollm2_gguf: Path) -> None:
    asked = [
        item("What is the capital of France?"),
        item("日本の首都はどこですか。"),
        item("Is water wet? Answer as JSON.", schema=SCHEMA),
    ]
    async with openvino_scorer(variant(smollm2_gguf, "u8")) as scorer:
        # The judging graph is the serving one: its log-probabilities are the pipeline's.
        assert scorer.ready.difference_nats < 0.01
        # Measured from the tensors that the compiled graph takes: 8 bit and the scales.
        assert 0.5 < scorer.ready.kv_bytes_per_token / WHOLE_KV_BYTES < 0.6
        for one in asked:
            said = await scorer.continue_greedily(one)
            steps = await scorer.follow(one, said.tokens)
            assert compare(one, said, steps).kl < 0.01
            if one.schema is None:
                # At 8 bit what else is in the batch may turn a tie.
                assert all(step.top[step.favourite] - step.top[step.token] < 0.1 for step in said.steps)
        assert json.loads(await scorer.answer(asked[2]))["answer"] in ("yes", "no")
        # A beginning that was read before is not read again, and says the same.
        long = item("The sea is wide. " * 20 + "Name a colour.")
        first, again = [(await scorer.continue_greedily(long)).steps for _ in range(2)]
        assert [step.favourite for step in first] == [step.favourite for step in again]
        with pytest.raises(InvalidInput, match="longer than the model's context"):
            await scorer.answer(item("word " * 600))


@pytest.mark.timeout(300)
async def test_8_bit_by_row_is_held_with_one_scale_per_row_and_is_near(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    source = source_of(str(smollm2_gguf), tmp_path)
    by_row = side_on("openvino", source, "q8_row", tmp_path)
    reference = produce(source, "q8_0", tmp_path).side
    near = await gate(order(reference, by_row, tmp_path, NUM_ITEMS_OF_A_LOOK), SystemClock())
    kl = near.metric("kl")
    assert kl is not None
    assert (near.outcome, kl.value < kl.limit) == ("undecided", True)
    (model,) = tmp_path.glob("made/*/openvino_model.xml")
    # Scales are by row: no matrix has groups any more.
    assert 'shape="576, 18, 32"' not in model.read_text(encoding="utf-8")
    assert 'DYNAMIC_QUANTIZATION_GROUP_SIZE value="64"' in model.read_text(encoding="utf-8")


# Two gates and a conversion, beside whatever else CI has left running: 117 s were seen.
@pytest.mark.timeout(300)
async def test_faithful_weights_are_near_and_a_broken_layer_is_refused(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    source = source_of(str(smollm2_gguf), tmp_path)
    faithful = at_u8(side_on("openvino", source, "q8_0", tmp_path))
    reference = produce(source, "q8_0", tmp_path).side
    near = await gate(order(reference, faithful, tmp_path, NUM_ITEMS_OF_A_LOOK), SystemClock())
    kl = near.metric("kl")
    assert kl is not None
    # A pass needs more items; they are too few to refuse what is near.
    assert (near.outcome, kl.value < kl.limit) == ("undecided", True)
    assert near.kv_bytes_per_token is not None
    about = near.subject
    assert (about.engine, about.kv_precision, about.precision) == ("openvino", "u8", "q8_0")
    assert about.engine_version.startswith("openvino-genai")
    assert about.reference_engine_version.startswith("xllamacpp")
    assert VerdictStore(tmp_path).find(about) == near
    broken = broken_copy(next(tmp_path.glob("made/*/openvino_model.xml")).parent, tmp_path / "broken")
    side = msgspec.structs.replace(faithful, artifact_path=broken, artifact_sha256=digest_of(broken))
    refused = await gate(order(reference, side, tmp_path, NUM_ITEMS_OF_A_LOOK), SystemClock())
    assert refused.outcome == "refuse"


@pytest.mark.gates
@pytest.mark.skipif(
    not os.environ.get("OUTPACE_TEST_GATES"), reason="a minute or more; OUTPACE_TEST_GATES=1 runs it"
)
async def test_faithful_weights_pass(smollm2_gguf: Path, tmp_path: Path) -> None:
    source = source_of(str(smollm2_gguf), tmp_path)
    faithful = at_u8(side_on("openvino", source, "q8_0", tmp_path))
    reference = produce(source, "q8_0", tmp_path).side
    passed = await gate(order(reference, faithful, tmp_path, NUM_ITEMS), SystemClock())
    assert (passed.outcome, passed.num_items) == ("pass", NUM_ITEMS)


async def test_weights_that_are_none_end_with_the_engines_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineFailed, match="cannot read"):
        async with openvino_scorer(variant(path)):
            pass


def test_formats_and_engines_that_do_not_go_together_are_refused_by_name(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    source = source_of(str(smollm2_gguf), tmp_path)
    with pytest.raises(InvalidInput, match="add --engine openvino"):
        side_on("llamacpp", source, "openvino-int8", tmp_path)
    with pytest.raises(InvalidInput, match="w8a8"):
        side_on("openvino", source, "w8a8", tmp_path)
    with pytest.raises(InvalidInput, match="it judges llamacpp, openvino"):
        require_engine("vllm")


def at_u8(side: Side) -> Side:
    return msgspec.structs.replace(side, kv_precision="u8")


def order(reference: Side, candidate: Side, folder: Path, num_items: int) -> GateOrder:
    shipped = shipped_items()
    single = [one for one in shipped.items if one.kind == "single"]
    short = tuple(sorted(single, key=lambda one: len(one.messages[-1].content))[:num_items])
    return GateOrder(
        model="m",
        context_tokens=2048,
        reference=reference,
        candidate=candidate,
        item_set=ItemSet(name="short", sha256=limits_sha256(), items=short),
        machine="here",
        folder=folder,
    )


def broken_copy(folder: Path, target: Path) -> Path:
    """OpenVINO's files with the weights of one matrix in the middle overwritten."""
    target.mkdir()
    for path in folder.glob("openvino_*"):
        shutil.copyfile(path, target / path.name)
    text = (target / "openvino_model.xml").read_text(encoding="utf-8")
    found = re.findall(r'element_type="u8" shape="576, 48, 32" offset="(\d+)" size="(\d+)"', text)
    assert len(found) == NUM_LAYERS
    start, size_bytes = map(int, found[NUM_LAYERS // 2])
    with (target / "openvino_model.bin").open("r+b") as file:
        file.seek(start)
        file.write(bytes(size_bytes))
    return target
