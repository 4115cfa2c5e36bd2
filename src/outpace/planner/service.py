"""From step times to what users see: throughput, TTFT and ITL under each kind of load."""

from dataclasses import dataclass, fields

import numpy as np

from outpace.planner.columns import Columns, Flags, Numbers
from outpace.planner.steps import Prefill, Rates, decode_step_s, prefill_s

_BISECTIONS = 24
# A soft minimum: close to the smaller of two, without a corner that would stop the fit.
_SOFTNESS = 4.0
# Above this share of the prefill capacity a queue of Poisson arrivals is not stationary within a run.
_MOST_BUSY = 0.9
_SHORTEST_S = 1e-6
_MOST_ACCEPTED = 0.99


@dataclass(frozen=True)
class Loads:
    """Which setups arrive how."""

    static: Flags
    closed: Flags
    burst: Flags
    paced: Flags


@dataclass(frozen=True)
class Service:
    """Per instance: tokens per second, seconds to the first token, seconds between tokens."""

    tokens_per_s: Numbers
    ttft_s: Numbers
    itl_s: Numbers
    in_flight: Numbers


@dataclass(frozen=True)
class _Steady:
    """A steady mix of prompts and steps with a constant number in flight."""

    itl_s: Numbers
    tokens_per_s: Numbers


def serve(at: Columns, rates: Rates, loads: Loads) -> Service:
    """What every setup delivers under its load."""
    found = Service(*(np.zeros(at.count) for _ in fields(Service)))
    full = ~(loads.static | loads.closed | loads.burst | loads.paced)
    for chosen, answer in (
        (loads.static, _static),
        (loads.closed, _closed),
        (loads.burst, _burst),
        (loads.paced, _paced),
        (full, _full),
    ):
        rows = np.flatnonzero(chosen)
        if len(rows):
            part = answer(at.pick(rows), {name: values[rows] for name, values in rates.items()})
            for field in fields(Service):
                getattr(found, field.name)[rows] = getattr(part, field.name)
    return found


def _full(at: Columns, rates: Rates) -> Service:
    """As many as the instance holds, replaced as they leave while the run has more."""
    prompt, held = prefill_s(at, rates, at.isl), np.minimum(_held(at), at.run_requests)
    now = _drained(at, rates, _promised(at, rates, _steady(at, rates, prompt, held)), held)
    waits = rates["bunching"] * (np.minimum(at.concurrency, held) - 1).clip(min=0.0) * prompt.work_s
    return Service(now.tokens_per_s, _first_s(at, rates, prompt, now) + waits, now.itl_s, held)


def _closed(at: Columns, rates: Rates) -> Service:
    """A fixed number of callers, each asking again when answered."""
    prompt, held = prefill_s(at, rates, at.isl), _held(at)
    in_flight = np.minimum(np.maximum(at.concurrency, 1.0), held)
    ahead = _read_ahead(at, rates, in_flight)
    now = _steady(at, rates, prompt, in_flight, ahead)
    ttft = _first_s(at, rates, prompt, now) + _bunched_wait_s(at, rates, prompt, now, held, ahead)
    stays = ttft + (at.osl - 1).clip(min=0.0) * now.itl_s
    looped = at.concurrency.clip(min=1.0) * at.osl / stays
    return Service(np.minimum(looped, now.tokens_per_s), ttft, now.itl_s, in_flight)


def _paced(at: Columns, rates: Rates) -> Service:
    """Poisson arrivals at a rate; the throughput is what the instance could carry."""
    prompt, held = prefill_s(at, rates, at.isl), _held(at)
    full = _steady(at, rates, prompt, held)
    in_flight = np.minimum(_balanced(at, rates, prompt, held), np.maximum(at.run_requests, 1.0))
    now = _promised(at, rates, _steady(at, rates, prompt, in_flight))
    ttft = _first_s(at, rates, prompt, now) + _arrival_wait_s(at, rates, prompt, full, held)
    return Service(full.tokens_per_s, ttft, now.itl_s, in_flight)


def _read_ahead(at: Columns, rates: Rates, in_flight: Numbers) -> Numbers:
    """Share of all prompts that is read before the mean first token, where callers stay in step; 0 where they do not.

    What is read before it makes its first token wait, and only the rest stands between its later ones.
    """
    chunks = np.maximum(in_flight * at.isl / (rates["chunk"] * at.chunk_share), 1.0)
    found: Numbers = at.takes_turns * np.minimum(rates["turns"], 1.0) * (1.0 + 1.0 / chunks) / 2
    return found


def _held(at: Columns) -> Numbers:
    return np.maximum(at.capacity, 1.0)


def _first_s(at: Columns, rates: Rates, prompt: Prefill, now: _Steady) -> Numbers:
    """To the first token without a queue: the door, the prompt, and the rest of the step under way.

    A scheduler that looks for arrivals every few steps only lets them wait for half of those besides. Without a
    warm-up the first of many requests wait for kernels to be compiled, which the mean shares out.
    """
    alone = rates["door"] + rates["tokenize"] * at.isl + rates["first"] * prompt.work_s + prompt.fixed_s
    step = now.itl_s * _step_tokens(at, rates)
    first: Numbers = (
        alone + (rates["wait"] + (at.poll_steps - 1) / 2 + _gathering_steps(at, step, now)) * step
    )
    return first + at.is_cold * rates["compile"]


def _gathering_steps(at: Columns, step_s: Numbers, now: _Steady) -> Numbers:
    """Steps that the mean prompt waits for others: the first one all of them, who comes meanwhile the rest of them."""
    others = at.gather_steps * step_s * np.maximum(at.concurrency, 1.0) / (at.osl * now.itl_s)
    found: Numbers = at.gather_steps / 2 * (1.0 + 1.0 / (1.0 + others))
    return found


def _balanced(at: Columns, rates: Rates, prompt: Prefill, held: Numbers) -> Numbers:
    """Sequences in flight at an arrival rate (Little's law), by bisection; `held` when it cannot keep up."""
    low, high = np.full(at.count, 1e-3), held
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        state = _steady(at, rates, prompt, middle)
        stays = prompt.work_s + prompt.fixed_s + at.osl * state.itl_s
        enough = middle >= at.rate * stays
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.sqrt(low * high)


def _steady(
    at: Columns, rates: Rates, prompt: Prefill, in_flight: Numbers, ahead: Numbers | float = 0.0
) -> _Steady:
    """Every step also carries a piece of the others' prompts, at most one chunk; work is conserved.

    What was read `ahead` of the first token comes into no later step.
    """
    step = _token_s(at, rates, np.maximum(in_flight, 1.0) * at.beams)
    # Stages read different prompts at the same time.
    reading = rates["mixing"] * prompt.work_s / at.pp
    share = (in_flight - 1.0).clip(min=0.0) / at.osl * reading
    chunk = prompt.work_s * np.maximum(rates["chunk"] * at.chunk_share / at.isl, 1e-3)
    itl = step + _smaller(share, chunk) * (1.0 - ahead)
    tokens = in_flight * at.osl / (at.osl * step + in_flight * reading + prompt.fixed_s)
    return _Steady(itl, tokens)


def _token_s(at: Columns, rates: Rates, batch: Numbers) -> Numbers:
    """Seconds per token of each sequence; a step that checks a draft yields several.

    Each head costs a layer; drafting and checking cost the host something per sequence.
    """
    step = decode_step_s(at, rates, batch, at.isl + at.osl / 2, 1.0 + at.drafted)
    drafting = np.minimum(at.drafted, 1.0) * rates["drafting"] * batch / at.attention_dp
    found: Numbers = (step * (1.0 + at.drafted / at.layers) + drafting) / _step_tokens(at, rates)
    return found


def _step_tokens(at: Columns, rates: Rates) -> Numbers:
    """Tokens of a step by the chance that a drafted one is accepted (Leviathan et al., arXiv 2211.17192)."""
    chance = np.minimum(rates["accepted"], _MOST_ACCEPTED)
    return (1.0 - chance ** (at.drafted + 1.0)) / (1.0 - chance)


def _promised(at: Columns, rates: Rates, now: _Steady) -> _Steady:
    """Who promises a p99 of the time between tokens admits no more than keeps the mean at a share of it."""
    kept = _smaller(now.itl_s, np.maximum(at.slo_itl_s, _SHORTEST_S) * rates["promise"])
    return _Steady(np.where(at.slo_itl_s > 0, kept, now.itl_s), now.tokens_per_s)


def _drained(at: Columns, rates: Rates, now: _Steady, held: Numbers) -> _Steady:
    """The mean of a run with an end: after the last arrival the batch thins while its last ones go on."""
    waves = at.run_requests / held
    thinning = rates["tail"] * np.minimum(1.0, at.osl / 100) * (1.0 - 1.0 / waves)
    lost_s = thinning * at.osl * now.itl_s
    wanted_s = at.run_requests * at.osl / now.tokens_per_s
    return _Steady(now.itl_s, now.tokens_per_s / (1.0 + lost_s / wanted_s))


def _smaller(one: Numbers, other: Numbers) -> Numbers:
    ratio = (one / other) ** _SOFTNESS
    return one / (1.0 + ratio) ** (1.0 / _SOFTNESS)


def _bunched_wait_s(
    at: Columns, rates: Rates, prompt: Prefill, now: _Steady, held: Numbers, ahead: Numbers
) -> Numbers:
    """Closed loops start all at once and stay bunched; callers beyond the places wait for one to leave."""
    others = (np.minimum(at.concurrency, held) - 1).clip(min=0.0)
    overflow = (at.concurrency - held).clip(min=0.0)
    bunched = np.maximum(rates["bunching"], ahead) * others * prompt.work_s
    waits: Numbers = bunched + overflow * at.osl / now.tokens_per_s
    return waits


def _arrival_wait_s(at: Columns, rates: Rates, prompt: Prefill, full: _Steady, held: Numbers) -> Numbers:
    """Poisson arrivals meet others' prompts (M/D/1); beyond capacity a queue grows for the length of the run."""
    busy = np.minimum(at.rate * rates["mixing"] * prompt.work_s, _MOST_BUSY)
    meeting = busy / (1 - busy) * prompt.work_s / 2
    behind = at.osl / full.tokens_per_s - 1 / np.maximum(at.rate, 1e-9)
    queued = (at.run_requests - held).clip(min=0.0) / 2 * behind.clip(min=0.0)
    # An operator who promises a TTFT does not admit more than the instance can carry.
    waits: Numbers = meeting + np.where(at.slo_ttft_s > 0, 0.0, queued)
    return waits


def _static(at: Columns, rates: Rates) -> Service:
    """One batch: all prompts, then all steps; the average counts both."""
    batch = np.maximum(at.concurrency, 1.0)
    prompts = prefill_s(at, rates, at.isl)
    read = prompts.work_s * batch + np.maximum(1.0, at.isl * batch / 16384.0) * prompts.fixed_s
    step = decode_step_s(at, rates, batch * at.beams, at.isl + at.osl / 2)
    total = read + (at.osl - 1).clip(min=0.0) * step
    return Service(batch * at.osl / total, read, step, batch)


def _burst(at: Columns, rates: Rates) -> Service:
    """N requests at once: prompts, then waves of at most `held`; the last ones leave the batch thin."""
    prompt, held = prefill_s(at, rates, at.isl), _held(at)
    asked = np.maximum(at.concurrency, 1.0)
    size = np.minimum(asked, held)
    step = decode_step_s(at, rates, size * at.beams, at.isl + at.osl / 2)
    reading = rates["mixing"] * prompt.work_s / at.pp + rates["request"]
    thinning = rates["tail"] * np.minimum(1.0, at.osl / 100)
    total = asked * reading + at.osl * step * (asked / size + thinning) + prompt.fixed_s
    first = rates["door"] + prompt.fixed_s + size / 2 * reading
    queued = (1 - size / asked) * total / 2
    chunk = prompt.work_s * np.maximum(rates["chunk"] * at.chunk_share / at.isl, 1e-3)
    itl = step + _smaller(size / at.osl * reading * rates["shared"], chunk)
    return Service(asked * at.osl / total, first + queued, itl, size)
