"""A tiny Llama as a GGUF file, fake scorers, and verdicts for tests."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from outpace.precision.items import Item, ItemSet, Turn
from outpace.precision.limits import limits_sha256
from outpace.precision.traces import Step, Trace
from outpace.precision.verdict import Measured, Outcome, Subject, Verdict

LAYERS = 2
WIDTH = 64


def matrices(seed: int = 1) -> dict[str, NDArray[np.float32]]:
    """Tensors of a model with two layers."""
    rng = np.random.default_rng(seed)
    made = {"token_embd.weight": rng.normal(size=(96, WIDTH)).astype(np.float32)}
    for layer in range(LAYERS):
        for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            made[f"blk.{layer}.{role}.weight"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
        made[f"blk.{layer}.attn_norm.weight"] = np.ones(WIDTH, dtype=np.float32)
        made[f"blk.{layer}.ffn_norm.weight"] = np.full(WIDTH, 0.5, dtype=np.float32)
    return made


def write_runnable(path: Path, merges: Sequence[str] = ()) -> Path:
    """A GGUF that transformers can run once it is unpacked: a token for each byte, as GPT-2 writes bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + number) for number in range(256 - len(plain))]
    tokens = [*map(chr, plain), *others]
    rng = np.random.default_rng(3)
    whole = {
        **matrices(),
        "token_embd.weight": rng.normal(size=(len(tokens), WIDTH)).astype(np.float32),
        "output_norm.weight": np.ones(WIDTH, dtype=np.float32),
    }
    return write_gguf(path, whole, tokens, merges, context_tokens=1024)


def write_gguf(
    path: Path,
    tensors: dict[str, NDArray[np.float32]],
    tokens: Sequence[str] = ("a", "ä", "<|end|>"),
    merges: Sequence[str] = ("a ä",),
    context_tokens: int = 64,
) -> Path:
    """A GGUF of these tensors at F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_array("tokenizer.ggml.tokens", list(tokens))
    writer.add_array("tokenizer.ggml.merges", list(merges))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def item_set(count: int = 60, kinds: tuple[str, ...] = ("single",)) -> ItemSet:
    """Items of the given kinds in turn."""
    items = tuple(
        Item(id=f"i{number}", kind=kinds[number % len(kinds)], messages=(Turn("user", f"say {number}"),))  # type: ignore[arg-type]  # a test's kinds are known
        for number in range(count)
    )
    return ItemSet(name="test", sha256="0" * 64, items=items)


def step(*log_probabilities: float, token: int = 0) -> Step:
    """A position with these log-probabilities of tokens 0, 1, …"""
    return Step(token, dict(enumerate(log_probabilities)))


class FakeScorer:
    """Says the same of every item: `top` at each of four positions."""

    def __init__(self, *top: float, text: str = "fine") -> None:
        self._step = step(*top)
        self._text = text

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        return Trace(item.id, self._text, (self._step,) * 4)

    async def follow(self, item: Item, tokens: tuple[int, ...]) -> tuple[Step, ...]:
        return tuple(Step(token, self._step.top) for token in tokens)

    async def answer(self, item: Item) -> str:
        return self._text


def subject(precision: str = "q4_0", kv_precision: str = "f16") -> Subject:
    """What a verdict holds for."""
    return Subject(
        model="tiny",
        precision=precision,
        kv_precision=kv_precision,
        artifact_sha256="a" * 64,
        reference_precision="f16",
        reference_kv_precision="f16",
        reference_sha256="b" * 64,
        engine="llamacpp",
        engine_version="1",
        machine="here",
        items_sha256="c" * 64,
        limits_sha256=limits_sha256(),
    )


def verdict(outcome: Outcome, precision: str = "q4_0", kv_precision: str = "f16") -> Verdict:
    """A verdict with one metric."""
    kl = Measured(
        name="kl", value=0.02, low=0.01, high=0.03, limit=0.05, num_items=60, unit="nats", shown="below"
    )
    return Verdict(
        outcome=outcome,
        reason="because",
        subject=subject(precision, kv_precision),
        metrics=(
            kl,
            Measured(**{**{f: getattr(kl, f) for f in kl.__struct_fields__}, "name": "disagreement"}),
        ),
        worst=(),
        num_items=60,
        num_positions=240,
        median_divergence_tokens=None,
        confidence=0.95,
        decided_at=1.0,
        duration_s=2.0,
    )
