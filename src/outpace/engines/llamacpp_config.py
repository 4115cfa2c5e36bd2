"""What the llama.cpp process is told, and the engine settings that a deployment may set."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q4_0"]
BatchTokens = Annotated[int, Meta(ge=32, le=65_536)]


class LlamaSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of a llama.cpp deployment, besides `parallel`, `context_tokens` and `threads`."""

    cache_type_k: KvType = "f16"
    # Quantized values need flash attention, which `auto` turns on where it can.
    cache_type_v: KvType = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    # Prompts kept in RAM after their sequence was reused, beyond the KV cache itself; 0 keeps none.
    cache_ram_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    # Logical and physical batch; embeddings use the context instead.
    batch_tokens: BatchTokens = 2048
    micro_batch_tokens: BatchTokens = 512
    # The model's chat template shows tools to the model (llama.cpp: chat_template_caps.supports_tools).
    tools: bool = False


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
