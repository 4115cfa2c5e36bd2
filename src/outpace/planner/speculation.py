"""What guessing ahead gains by load: a step that checks a draft costs more than a plain one, and yields more tokens.

Tokens per step follow from the acceptance rate (Leviathan et al. 2023, arXiv 2211.17192, equation 1); the costs of
checking and drafting from the step-time model. Where products bind (many sequences) a draft no longer rides along free.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from outpace.planner.architectures import architecture
from outpace.planner.calibration import Calibration
from outpace.planner.columns import Numbers
from outpace.planner.model import Batch, batch
from outpace.planner.setups import Setup
from outpace.planner.steps import decode_step_s
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

NGRAM, HEAD = "ngram", "head"
_MOST_DRAFTED = 32


@dataclass(frozen=True)
class Speculation:
    """A drafter (`ngram`: text seen before; `head`: a trained layer such as EAGLE or MTP; or a model's name),
    tokens drafted per step, and the chance that a drafted token is accepted."""

    drafter: str
    draft_tokens: int
    acceptance: float

    def __post_init__(self) -> None:
        if not 0 <= self.acceptance < 1:
            raise InvalidInput("acceptance", f"{self.acceptance:g} is not a share from 0 to below 1")
        if not 1 <= self.draft_tokens <= _MOST_DRAFTED:
            raise InvalidInput("draft-tokens", f"must be 1 to {_MOST_DRAFTED}")

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of one step: the accepted part of the draft and one of the target's own."""
        return (1 - self.acceptance ** (self.draft_tokens + 1)) / (1 - self.acceptance)


@dataclass(frozen=True)
class Gain:
    """Output tokens/s with speculation over those without, at a number of sequences in flight."""

    in_flight: int
    speedup: float


def gains(
    setup: Setup, speculation: Speculation, in_flight: Sequence[int], calibration: Calibration
) -> list[Gain]:
    """The gain at each load. Raises InvalidInput when the drafter is not known."""
    alone, drafts = batch([setup] * len(in_flight)), batch([_drafting(setup, speculation)] * len(in_flight))
    sequences = np.array(in_flight, dtype=np.float64)
    ratios = _speedups(alone, drafts, speculation, sequences, calibration)
    return [Gain(n, float(ratio)) for n, ratio in zip(in_flight, ratios, strict=True)]


def gain_at(setup: Setup, speculation: Speculation, in_flight: float, calibration: Calibration) -> float:
    """The gain at one load, which need not be whole."""
    drafts = batch([_drafting(setup, speculation)])
    return float(_speedups(batch([setup]), drafts, speculation, np.array([in_flight]), calibration)[0])


def _speedups(
    target: Batch, drafts: Batch, speculation: Speculation, sequences: Numbers, calibration: Calibration
) -> Numbers:
    rates = target.rates(calibration.logs)
    context = target.at.isl + target.at.osl / 2
    plain = decode_step_s(target.at, rates, sequences, context)
    checking = decode_step_s(target.at, rates, sequences, context, speculation.draft_tokens + 1.0)
    drafting = np.zeros_like(plain)
    if speculation.drafter != NGRAM:
        # The host prepares a step once; drafting runs inside it.
        quiet = {**drafts.rates(calibration.logs), "host": np.full(len(plain), 1e-9)}
        drafting = decode_step_s(drafts.at, quiet, sequences, context)
    gained: Numbers = speculation.tokens_per_step * plain / (checking + speculation.draft_tokens * drafting)
    return gained


def _drafting(setup: Setup, speculation: Speculation) -> Setup:
    """The setup that drafts: the same devices with one layer, or with the draft model."""
    if speculation.drafter in (NGRAM, HEAD):
        return replace(setup, shape=_one_layer(setup.shape))
    return replace(setup, shape=architecture(speculation.drafter))


def _one_layer(shape: Architecture) -> Architecture:
    """A layer as wide as the model's own, with its output head; experts count as what one token uses of them."""
    width = shape.ffn or shape.experts_per_token * shape.expert_ffn + shape.shared_ffn
    return msgspec.structs.replace(
        shape,
        attention_layers=1,
        sliding_layers=0,
        linear_layers=0,
        dense_layers=1,
        moe_layers=0,
        ffn=width,
        published_parameters=0,
    )


def noted_speculation(notes: str) -> Speculation | None:
    """The speculation that a case's notes describe with its acceptance, such as `speculative decoding ON, draft_len=3,
    acceptance_length=2.4`; None when they say none, or not how much is accepted.

    Raises InvalidInput for an acceptance that the draft cannot give.
    """
    text = notes.lower()
    if "speculative" not in text and "speculation" not in text:
        return None
    drafted = re.search(r"draft[_ ](?:len|length|tokens)\s*[=:]?\s*(\d+)", text)
    rate = re.search(r"acceptance(?:[_ ]rate)?\s*[=:]?\s*(0?\.\d+)", text)
    length = re.search(r"acceptance[_ ]length\s*[=:]?\s*(\d+(?:\.\d+)?)", text)
    if not drafted or not (rate or length):
        return None
    drafter = NGRAM if re.search(r"n-?gram|prompt[ -]lookup", text) else HEAD
    count = int(drafted[1])
    share = float(rate[1]) if rate else _acceptance_of(float(length[1]) if length else 0.0, count)
    return Speculation(drafter, count, share)


def _acceptance_of(tokens_per_step: float, draft_tokens: int) -> float:
    """The acceptance rate at which a draft yields so many tokens per step, by bisection."""
    if not 1 <= tokens_per_step < draft_tokens + 1:
        raise InvalidInput(
            "notes",
            f"an acceptance length of {tokens_per_step:g} does not follow from drafts of {draft_tokens} tokens; "
            f"it counts the target's own token: 1 to below {draft_tokens + 1}",
        )
    low, high = 0.0, 1 - 1e-9
    for _ in range(50):
        middle = (low + high) / 2
        enough = Speculation(NGRAM, draft_tokens, middle).tokens_per_step >= tokens_per_step
        low, high = (low, middle) if enough else (middle, high)
    return (low + high) / 2
