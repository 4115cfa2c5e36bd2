"""What the step-time model does not know by itself: its fitted quantities, their priors and their groups."""

from collections.abc import Callable
from dataclasses import dataclass

from outpace.planner.setups import Load, Setup
from outpace.values.architecture import Architecture


@dataclass(frozen=True)
class Quantified:
    """A positive quantity with a prior value, the prior's spread in logs, and the spread of its groups."""

    prior: float
    spread: float
    groups: tuple[tuple[str, float], ...] = ()


# Priors come from what kernels are known to reach; groups share strength (a group without rows stays at 1).
# A layer: ten kernels of some 3 us each. With 12 us, kernels, the host and links stood for each other: eight starts
# ended in two bottoms, with 30 us in one (lab log, 2026-11-30).
FITTED: dict[str, Quantified] = {
    "weights": Quantified(
        0.75, 0.2, (("family", 0.12), ("format", 0.15), ("generation", 0.1), ("feed", 0.15))
    ),
    "cache": Quantified(0.6, 0.3, (("family", 0.15), ("generation", 0.25), ("attention", 0.3))),
    "decode_flops": Quantified(
        0.5, 0.3, (("family", 0.2), ("unit", 0.2), ("generation", 0.2), ("feed", 0.2))
    ),
    "prefill_flops": Quantified(
        0.5, 0.3, (("family", 0.2), ("unit", 0.2), ("generation", 0.25), ("feed", 0.2))
    ),
    "prefill_attention": Quantified(0.35, 0.4, (("generation", 0.3),)),
    "decode_attention": Quantified(0.25, 0.5, (("generation", 0.3),)),
    "corner": Quantified(2.0, 0.3),
    "routing": Quantified(0.85, 0.2),
    "link_latency": Quantified(4e-6, 0.5, (("generation", 0.3), ("family", 0.3))),
    "pcie_latency": Quantified(20e-6, 0.5, (("generation", 0.3), ("family", 0.3))),
    "link": Quantified(0.5, 0.4, (("family", 0.2),)),
    "pcie": Quantified(0.5, 0.4, (("family", 0.2),)),
    "layer": Quantified(30e-6, 0.5, (("generation", 0.5), ("family", 0.3), ("mixer", 0.4))),
    "expert_layer": Quantified(
        20e-6, 0.5, (("generation", 0.5), ("family", 0.3), ("unit", 0.3), ("sharing", 0.5))
    ),
    "host": Quantified(1e-3, 0.7, (("generation", 0.7), ("processor", 0.4))),
    "eager": Quantified(1e-4, 0.7, (("generation", 0.5), ("mixer", 0.5), ("feed", 0.5), ("processor", 0.4))),
    "sequence": Quantified(5e-6, 0.8, (("generation", 0.7), ("processor", 0.5), ("delivery", 0.5))),
    "overlap": Quantified(0.3, 1.0, (("generation", 0.7),)),
    "accepted": Quantified(0.75, 0.15, (("generation", 0.15),)),
    "drafting": Quantified(5e-5, 1.0, (("generation", 0.7),)),
    "mixing": Quantified(0.9, 0.2, (("generation", 0.2),)),
    "first": Quantified(1.0, 0.2, (("generation", 0.2),)),
    "door": Quantified(12e-3, 0.7, (("generation", 0.5), ("method", 0.7), ("processor", 0.4))),
    "compile": Quantified(2e-2, 1.0, (("generation", 1.0), ("family", 1.0))),
    "tokenize": Quantified(3e-6, 0.7, (("generation", 0.3), ("method", 0.3))),
    "bunching": Quantified(0.08, 0.7, (("generation", 0.5), ("method", 0.7))),
    "turns": Quantified(0.9, 0.2),
    "passes": Quantified(1.3, 0.4, (("generation", 0.3),)),
    "wait": Quantified(0.7, 0.5, (("generation", 0.3), ("method", 0.3))),
    "chunk": Quantified(8000.0, 0.5, (("generation", 0.5), ("arrival", 1.0))),
    "request": Quantified(3e-4, 0.8, (("generation", 0.5),)),
    "tail": Quantified(0.3, 0.5, (("generation", 0.3), ("lengths", 0.7))),
    "shared": Quantified(1.0, 0.3),
    "promise": Quantified(0.8, 0.3),
    "level": Quantified(1.0, 0.01, (("kind", 0.3),)),
}


# Loads whose answers come token by token; batches and full instances are asked for whole answers.
_STREAMED = (Load.CLOSED, Load.RATE, Load.SERVER, Load.INTERACTIVE)


def mixer_of(shape: Architecture) -> str:
    """How a model mixes tokens, as far as it changes which kernels run per layer."""
    if shape.sparse_top_tokens:
        return "sparse"
    if shape.linear_layers:
        return "hybrid"
    return shape.attention


def _delivery(setup: Setup) -> str:
    """A burst sent to a server, `all(1000)` or at an infinite rate, is streamed; a library answers one whole."""
    is_sent = setup.case.batch_or_concurrency.startswith("all(") or bool(setup.case.request_rate_rps)
    is_streamed = setup.load in _STREAMED or (setup.load is Load.BURST and is_sent)
    return f"{setup.generation.name} {'streamed' if is_streamed else 'whole'}"


_GROUPS: dict[str, Callable[[Setup], str]] = {
    "family": lambda setup: setup.device.family,
    "generation": lambda setup: setup.generation.name,
    "unit": lambda setup: setup.weights.multiply,
    "format": lambda setup: setup.weights.name,
    "method": lambda setup: setup.method,
    "attention": lambda setup: setup.shape.attention,
    "mixer": lambda setup: mixer_of(setup.shape),
    "feed": lambda setup: "experts" if setup.shape.moe_layers else "dense",
    "sharing": lambda setup: "shared" if setup.shape.shared_ffn else "routed",
    "processor": lambda setup: setup.processor,
    "delivery": _delivery,
    "arrival": lambda setup: "burst" if setup.load is Load.BURST else "steady",
    "lengths": lambda setup: "varied" if setup.has_varied_lengths else "fixed",
    "kind": lambda setup: f"{setup.load}/{setup.metric.quantity}/{setup.metric.statistic}",
}


def group_of(setup: Setup, grouping: str) -> str:
    """The group that a setup belongs to under a grouping."""
    return _GROUPS[grouping](setup)
