"""The GGUF reader: right facts of a sound file, and a refusal that says what is wrong with any other."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.catalogue.samples import (
    TEMPLATE,
    number,
    numbers,
    pair,
    pairs,
    tensor,
    texts,
    tiny_gguf,
    word,
)

from outpace.catalogue import gguf
from outpace.values.errors import WeightsInvalid


def read(folder: Path, content: bytes) -> gguf.GgufFacts:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return gguf.read(path)


def test_facts_of_a_sound_file(tmp_path: Path) -> None:
    facts = read(tmp_path, tiny_gguf())
    assert (facts.architecture, facts.name, facts.precision) == ("llama", "Tiny", "f32")
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.head_dim) == (2, 8, 2, 1, 4)
    assert (facts.context_tokens, facts.vocabulary, facts.ffn) == (64, 6, 16)
    assert facts.control_texts == ("<|endoftext|>", "<|im_start|>")
    assert facts.user_defined_texts == ("<tool>", "  ")
    assert (facts.bos_token, facts.eos_token) == (0, 1)
    assert facts.chat_template == TEMPLATE
    assert facts.mentions_tools
    assert facts.tensor_types == {"f32": 1, "q4_0": 1}
    assert facts.parameters == 8 * 6 + 32
    assert facts.has_output_tensor


def test_a_vocabulary_larger_than_one_read_is_walked_right(tmp_path: Path) -> None:
    tokens = [f"token {index} " + "x" * 40 for index in range(49_152)]
    tokens[40_000] = "<|mark|>"
    kinds = [1] * len(tokens)
    kinds[40_000] = 3
    keys = [word("general.architecture", "llama"), texts("tokenizer.ggml.tokens", tokens)]
    facts = read(tmp_path, tiny_gguf([*keys, numbers("tokenizer.ggml.token_type", kinds)]))
    assert facts.vocabulary == 49_152
    assert facts.control_texts == ("<|mark|>",)


ARCHITECTURE = word("general.architecture", "llama")
HUGE = 2**63


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends inside its header"),
        (b"GGUF", "ends inside its header"),
        (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
        (b"<html>not found</html>" * 10, "does not begin with GGUF"),
        (tiny_gguf(version=1), "version 1"),
        (tiny_gguf(version=0x03000000), "version"),
        (tiny_gguf()[:-400], "ends at byte"),
        (tiny_gguf()[:200], "ends inside its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "keys"),
        (tiny_gguf([struct.pack("<Q", HUGE)]), "bytes of text"),
        (tiny_gguf([pair("k", 8, struct.pack("<Q", 2**21) + b"x")]), "ends inside its header"),
        (tiny_gguf([pair("k", 9, struct.pack("<IQ", 4, HUGE))]), "array items"),
        (tiny_gguf([pair("k", 9, struct.pack("<IQ", 8, 3_000_000))]), "texts"),
        (tiny_gguf([pair("k", 9, struct.pack("<IQ", 8, 1_000_000))]), "header|beyond|ends"),
        (tiny_gguf([pair("k", 9, struct.pack("<IQ", 9, 2))]), "array type 9"),
        (tiny_gguf([pair("k", 13, b"")]), "value type 13"),
        (tiny_gguf([ARCHITECTURE, ARCHITECTURE]), "twice"),
        (tiny_gguf([number("llama.block_count", 2)]), "architecture"),
        (tiny_gguf([ARCHITECTURE, word("llama.block_count", "many")]), "block_count"),
        (tiny_gguf([ARCHITECTURE, number("general.alignment", 0)]), "alignment"),
        (tiny_gguf([ARCHITECTURE, number("general.alignment", 2**31)]), "alignment"),
        (tiny_gguf(tensors=[tensor("a", (2**40, 2**40), 0, 0)]), "ends at byte"),
        (tiny_gguf(tensors=[tensor("a", (2**32, 2**32), 0, 0)]), "ends at byte"),
        (tiny_gguf(tensors=[tensor("a", (8,), 0, 2**63)]), "ends at byte"),
        (tiny_gguf(tensors=[tensor("a", (8,), 0, 7)]), "not aligned"),
        (tiny_gguf(tensors=[tensor("a", (0,), 0, 0)]), "no possible shape"),
        (tiny_gguf(tensors=[tensor("a", (31,), 2, 0)]), "no possible shape"),
        (tiny_gguf(tensors=[tensor("a", (8,), 99, 0)]), "type 99"),
        (tiny_gguf(tensors=[tensor("a", (1,) * 9, 0, 0)]), "dimensions"),
        (tiny_gguf(tensors=[tensor("a", (8,), 0, 0)] * 2), "twice"),
        (tiny_gguf([*pairs()[:-4], numbers("tokenizer.ggml.token_type", [3])]), "types"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(WeightsInvalid, match=reason) as refused:
        read(tmp_path, content)
    assert "model.gguf" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf", Path("a\0b.gguf")):
        with pytest.raises(WeightsInvalid, match="cannot be read"):
            gguf.read(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1_400), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.integers(0, 1_500),
)
def test_a_mutated_or_cut_file_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, bytes]], length: int
) -> None:
    content = bytearray(tiny_gguf())
    for place, new in changes:
        content[place : place + len(new)] = new
    try:
        facts = read(tmp_path, bytes(content[:length]))
    except WeightsInvalid:
        return
    assert facts.size_bytes == min(length, len(content))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tail=st.binary(max_size=400))
def test_any_bytes_behind_the_magic_are_read_or_refused(tmp_path: Path, tail: bytes) -> None:
    try:
        read(tmp_path, b"GGUF\x03\0\0\0" + tail)
    except WeightsInvalid:
        return
    pytest.fail("400 random bytes cannot hold a named architecture")
