"""What the llama.cpp process is told, and the engine settings that a deployment may set."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"]
BatchTokens = Annotated[int, Meta(ge=32, le=65_536)]
# `draft` needs `draft_path`; the others guess from the text itself.
SpeculationKind = Literal[
    "off", "ngram_simple", "ngram_map_k", "ngram_map_k4v", "ngram_mod", "ngram_cache", "draft"
]


class LlamaSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of a llama.cpp deployment, besides `parallel`, `context_tokens` and `threads`."""

    cache_type_k: KvType = "f16"
    # Quantized values need flash attention, which `auto` turns on where it can.
    cache_type_v: KvType = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    # Reuse what an earlier prompt began with. llama.cpp shares that between keys: how soon an answer comes may tell one
    # key that another asked the like. Off, every prompt is read whole.
    prefix_caching: bool = True
    # Prompts kept in RAM after their sequence was reused, beyond the KV cache itself; 0 keeps none.
    cache_ram_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    # Logical and physical batch; embeddings use the context instead. Between two batches everybody who writes gets a
    # token: with 2,048 a long prompt stops all streams for as long as it takes to read, and reads 4 % faster.
    batch_tokens: BatchTokens = 128
    micro_batch_tokens: BatchTokens = 512
    # The model's chat template shows tools to the model (llama.cpp: chat_template_caps.supports_tools).
    tools: bool = False
    # How tokens are guessed ahead; the answer is the same with every kind.
    speculation: SpeculationKind = "off"
    # Most tokens guessed at a time; 0: llama.cpp's own default for the kind.
    speculation_tokens: Annotated[int, Meta(ge=0, le=1024)] = 0
    # Tokens that must have been seen before for a guess; 0: llama.cpp's own default for the kind.
    speculation_match_tokens: Annotated[int, Meta(ge=0, le=1024)] = 0
    # Weights of the draft model, for `draft`.
    draft_path: str = ""


class LlamaConfig(LlamaSettings, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Everything that the child process needs but for its token."""

    socket_path: str
    model_path: str
    alias: str
    # Sequences at a time, and the context of each.
    parallel: int
    context_tokens: int
    threads: int
    embeddings: bool = False
    # What the replica takes in all, as far as it is known: taken from the kernel before the engine wants it.
    memory_bytes: int = 0
