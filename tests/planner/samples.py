"""Cases that several planner tests share."""

from dataclasses import replace

from outpace.planner.cases import Case

STATIC_70B = Case(
    id="s",
    model="Llama-2-70B",
    gpu="H100-SXM-80GB",
    n_gpus="1",
    tp="1",
    pp="1",
    weights_precision="FP8",
    kv_precision="FP8",
    engine="TensorRT-LLM",
    engine_version="0.5.0",
    isl="2048",
    osl="128",
    batch_or_concurrency="8",
    metric="output_throughput",
    notes="static batch",
)
CLOSED_8B = Case(
    id="c",
    model="Llama-3.1-8B",
    gpu="H100-SXM-80GB",
    n_gpus="1",
    tp="1",
    pp="1",
    weights_precision="BF16",
    engine="vLLM",
    engine_version="0.11.0",
    isl="1000",
    osl="500",
    batch_or_concurrency="16",
    metric="itl_ms_mean",
)


def case(base: Case = CLOSED_8B, /, **changes: str) -> Case:
    """A case that differs from a base."""
    return replace(base, **changes)
