"""The memory arithmetic against published figures and the mission's claims."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.planner.architectures import architecture
from outpace.precision.formats import kv_format, weight_format
from outpace.precision.memory import (
    Split,
    kv_bytes_per_sequence,
    kv_bytes_per_token,
    kv_shards,
    memory_use,
    weight_bytes,
)
from outpace.values.units import GB, GIB

LLAMA_70B = architecture("Llama-2-70B")


def test_llama_2_70b_weights_are_140_gb_at_fp16_and_70_gb_at_fp8() -> None:
    assert weight_bytes(LLAMA_70B, weight_format("fp16")).total == pytest.approx(140 * GB, rel=0.02)
    assert weight_bytes(LLAMA_70B, weight_format("fp8")).total == pytest.approx(70 * GB, rel=0.02)


def test_llama_2_70b_keeps_1_34_gb_per_4k_request_not_0_4() -> None:
    per_request = kv_bytes_per_sequence(LLAMA_70B, 4096, kv_format("fp16"))
    assert per_request == 2 * 80 * 8 * 128 * 2 * 4096
    assert per_request == pytest.approx(1.342 * GB, rel=0.001)
    assert kv_bytes_per_sequence(LLAMA_70B, 4096, kv_format("fp8")) == per_request / 2


def test_70b_at_fp8_on_one_80_gb_device_has_room_for_a_few_4k_requests_only() -> None:
    use = memory_use(LLAMA_70B, weight_format("fp8"), kv_format("fp16"), Split(), 80 * GIB, 4096)
    assert use.fits
    assert use.max_sequences in range(4, 8)
    assert use.kv_room_bytes < 10 * GB


def test_70b_at_fp16_does_not_fit_one_80_gb_device() -> None:
    use = memory_use(LLAMA_70B, weight_format("fp16"), kv_format("fp16"), Split(), 80 * GIB, 128)
    assert not use.fits
    assert use.kv_room_bytes < 0


def test_latent_attention_keeps_576_values_per_token_and_layer() -> None:
    deepseek = architecture("DeepSeek-R1")
    assert kv_bytes_per_token(deepseek, kv_format("bf16")) == 61 * 576 * 2
    assert kv_shards(deepseek, Split(tp=8)) == 1
    assert kv_shards(deepseek, Split(tp=1, attention_dp=8)) == 8


def test_sliding_layers_stop_growing_at_their_window() -> None:
    model = architecture("gpt-oss-120b")
    per_layer = 2 * 8 * 64 * 2
    assert kv_bytes_per_sequence(model, 8192, kv_format("bf16")) == 18 * per_layer * (8192 + 128)


def test_linear_layers_cost_the_same_at_any_length() -> None:
    model = architecture("Qwen/Qwen3.5-397B-A17B")
    short, long = (kv_bytes_per_sequence(model, n, kv_format("bf16")) for n in (1, 10_001))
    assert long - short == 10_000 * 15 * 2 * 2 * 256 * 2


def test_mxfp4_of_gpt_oss_matches_the_published_checkpoint() -> None:
    # 65.2 GB on the hub: routed experts at 4.25 bits, the rest at 16.
    assert weight_bytes(architecture("gpt-oss-120b"), weight_format("mxfp4")).total == pytest.approx(
        65.2 * GB, rel=0.03
    )


def test_gguf_size_of_smollm2_is_that_of_the_real_file() -> None:
    # Tensors of SmolLM2-135M-Instruct.Q4_1.gguf: 66,355,200 bytes Q4_1, 30,081,024 Q8_0, 140,544 F32 norms.
    model = architecture("smollm2-135m-instruct")
    assert weight_bytes(model, weight_format("q4_1")).total == 66_355_200 + 30_081_024


@settings(deadline=None, max_examples=40)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    tokens=st.integers(1, 32768),
    weights=st.sampled_from(["bf16", "fp8", "int4-awq", "nvfp4"]),
)
def test_more_devices_or_fewer_tokens_never_hold_fewer_sequences(tp: int, tokens: int, weights: str) -> None:
    model, stored, kv = architecture("Llama-3.1-8B"), weight_format(weights), kv_format("fp8")
    one = memory_use(model, stored, kv, Split(tp=tp), 80 * GIB, tokens)
    more_devices = memory_use(model, stored, kv, Split(tp=tp * 2), 80 * GIB, tokens)
    shorter = memory_use(model, stored, kv, Split(tp=tp), 80 * GIB, max(1, tokens // 2))
    assert one.max_sequences <= more_devices.max_sequences
    assert one.max_sequences <= shorter.max_sequences
