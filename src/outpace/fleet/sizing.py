"""How many sequences of what length one replica on this machine holds: a pure function of memory."""

from typing import NamedTuple

from outpace.values.units import GIB

# llama.cpp clears its KV cache at start, so every gigabyte of it costs about half a second of cold start.
LARGEST_KV_BYTES = 1 * GIB
KV_SHARE_OF_MEMORY = 0.15
MOST_SEQUENCES = 8
LONGEST_CONTEXT_TOKENS = 4_096
SHORTEST_CONTEXT_TOKENS = 512


class ReplicaSize(NamedTuple):
    """Sequences at once, and the context of each."""

    parallel: int
    context_tokens: int


def replica_size(context_tokens: int, kv_bytes_per_token: float, memory_bytes: int) -> ReplicaSize:
    """The most sequences of up to 4,096 tokens whose KV cache fits; sequences give way before context does."""
    budget_bytes = min(LARGEST_KV_BYTES, KV_SHARE_OF_MEMORY * memory_bytes)
    parallel, context = MOST_SEQUENCES, min(context_tokens, LONGEST_CONTEXT_TOKENS)
    while parallel > 1 and parallel * context * kv_bytes_per_token > budget_bytes:
        parallel //= 2
    while context > SHORTEST_CONTEXT_TOKENS and parallel * context * kv_bytes_per_token > budget_bytes:
        context //= 2
    return ReplicaSize(parallel, context)
