"""How many sequences of what length one replica on this machine holds: a pure function of memory."""

from typing import NamedTuple

from outpace.values.deployment import Replicas
from outpace.values.errors import InvalidInput
from outpace.values.units import GIB, MIB

# llama.cpp clears its KV cache at start, so every gigabyte of it costs about half a second of cold start.
LARGEST_KV_BYTES = 1 * GIB
# Where an imported process stands by, half a second to the first token is what it is for: 0.13 s less for half of it.
LARGEST_KV_BYTES_SOON = GIB // 2
KV_SHARE_OF_MEMORY = 0.15
MOST_SEQUENCES = 8
# Sequences per full context where they share memory by pages: few fill their context.
PAGED_SHARING = 4
LONGEST_CONTEXT_TOKENS = 4_096
SHORTEST_CONTEXT_TOKENS = 512


# Resident beside weights and KV cache: 41 MiB measured; with an engine imported and no model: 27 MiB with llama.cpp, 98
# with OpenVINO, which has two processes (docs/lab/LOG.md 2026-11-25). Rounded up.
REPLICA_EXTRA_BYTES = 64 * MIB
IMPORTED_BYTES = 32 * MIB
IMPORTED_BYTES_OF = {"openvino": 104 * MIB}


class ReplicaSize(NamedTuple):
    """Sequences at once, and the context of each."""

    parallel: int
    context_tokens: int


def replica_size(
    context_tokens: int, kv_bytes_per_token: float, memory_bytes: int, *, starts_soon: bool = False
) -> ReplicaSize:
    """The most sequences of up to 4,096 tokens whose KV cache fits; sequences give way before context does.

    `starts_soon`: an imported process stands by for it, so sequences, but no context, give way to a quick clearing.
    """
    budget_bytes = min(LARGEST_KV_BYTES, KV_SHARE_OF_MEMORY * memory_bytes)
    quick_bytes = min(LARGEST_KV_BYTES_SOON, budget_bytes) if starts_soon else budget_bytes
    parallel, context = MOST_SEQUENCES, min(context_tokens, LONGEST_CONTEXT_TOKENS)
    while parallel > 1 and parallel * context * kv_bytes_per_token > quick_bytes:
        parallel //= 2
    while context > SHORTEST_CONTEXT_TOKENS and parallel * context * kv_bytes_per_token > budget_bytes:
        context //= 2
    return ReplicaSize(parallel, context)


def require_room(replicas: Replicas, replica_bytes: float, memory_bytes: int, engine: str = "") -> None:
    """Raises InvalidInput when the smallest number of replicas and what stands by are more than this memory.

    Weights count once per replica, because formats that an engine repacks are copied for each.
    """
    standby = replicas.stands_by
    if not standby.loaded and not standby.imported:
        return
    held = max(replicas.min, 1) + standby.loaded
    needed_bytes = held * replica_bytes + standby.imported * IMPORTED_BYTES_OF.get(engine, IMPORTED_BYTES)
    if needed_bytes > memory_bytes:
        raise InvalidInput(
            "replicas.standby",
            f"{held} replicas of {replica_bytes / GIB:.1f} GiB and {standby.imported} imported processes need "
            f"{needed_bytes / GIB:.1f} GiB, this machine has {memory_bytes / GIB:.1f}: let fewer stand by",
        )
