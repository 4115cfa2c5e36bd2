"""The mission's story on this machine: what each layer adds, from naive serving to speculation and cached prefixes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from outpace.engines.registry import engine
from outpace.engines.speculation import METHODS
from outpace.lab.compare import Plan, Run, Side, Watcher, compare, found_run, gain_of
from outpace.lab.load import Target
from outpace.lab.naive import Naive, is_installed
from outpace.lab.replica import LabVariant, Launches, running
from outpace.lab.workload import named
from outpace.values.clock import Clock

NAIVE = "naive"
ENGINE = "engine"
PRECISION = "precision"
STATIC = "static"
CONTINUOUS = "continuous"
SPECULATION = "speculation"
MANY = "many users"
PREFIX = "prefix"
_GREEDY = {"temperature": 0, "ignore_eos": True}
# Prompts are not reused in any layer but the last one.
_NO_REUSE = {**_GREEDY, "cache_prompt": False}
_CONTEXT_TOKENS = 1024
_METHOD = "ngram"
# Most users of conversations whose prompts are read anew each turn.
_FEW_USERS = 8
_OPENVINO = "openvino_genai"


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the story: what serves, on which workload it is judged, and against which step before."""

    name: str
    about: str
    workload: str
    over: str | None


LAYERS = (
    Layer(
        name=NAIVE, about="transformers at 32 bit, one request at a time", workload="chat", over=None
    ),
    Layer(
        name=ENGINE, about="llama.cpp at 16 bit, one request at a time", workload="chat", over=NAIVE
    ),
    Layer(
        name=PRECISION, about="the served number format, one request at a time", workload="chat", over=ENGINE
    ),
    Layer(
        name=STATIC, about="gangs: the next one waits for the last of this one", workload="chat", over=PRECISION
    ),
    Layer(name=CONTINUOUS, about="requests join and leave at every step", workload="chat", over=STATIC),
    Layer(
        name=MANY,
        about="OpenVINO GenAI, the engine for many users, with 8-bit weights",
        workload="chat",
        over=CONTINUOUS,
    ),
    Layer(
        name=SPECULATION, about=f"{_METHOD}: tokens guessed from the text so far", workload="code", over=CONTINUOUS
    ),
    Layer(
        name=PREFIX, about="prompts that were read before are not read again", workload="multi-turn", over=CONTINUOUS
    ),
)  # fmt: skip


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The same model: exact for llama.cpp, as served, for the engine of many users, a folder for transformers."""

    model: str
    exact: Path
    served: Path
    served_precision: str
    # At 8 bit: what OpenVINO makes of Q4_1 is refused by the gate (docs/lab/LOG.md).
    many: Path
    # None: the extra `naive` is not installed.
    folder: Path | None = None


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and what was left out."""

    model: str
    served_precision: str
    machine: str
    engine_version: str
    measured_at: float
    loads: tuple[int, ...]
    rounds: int
    runs: tuple[Run, ...]
    skipped: dict[str, str]


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """A layer at a load against the step before it and against the first one; latencies are medians."""

    layer: str
    workload: str
    users: int
    output_tokens_per_s: float
    over_before: float | None
    over_first: float | None
    ttft_ms: float | None
    ttft_over_before: float | None
    itl_ms: float | None


async def tell_story(
    weights: Weights, plan: Plan, threads: int, clock: Clock, watcher: Watcher
) -> tuple[list[Run], dict[str, str]]:
    """Runs of every layer, and why some are left out. Raises EngineFailed, EngineTimedOut."""
    parallel = max(plan.loads)
    runs: list[Run] = []
    skipped: dict[str, str] = {}
    if weights.folder is not None and is_installed():
        async with _sides(_naive_starts(weights, threads), clock) as sides:
            runs += await compare(sides, _of(plan, "chat", rounds=1), watcher)
    else:
        missing = "the optional extra is not installed: pip install 'outpace[naive]'"
        skipped[NAIVE] = "not asked for" if is_installed() else missing
    async with _sides(_exact_starts(weights, threads), clock) as sides:
        runs += await compare(sides, _of(plan, "chat", rounds=1), watcher)
    async with _sides(_served_starts(weights, threads, parallel), clock) as sides:
        by_name = {side.name: side for side in sides}
        runs += await compare(
            [by_name[name] for name in (PRECISION, STATIC, CONTINUOUS)], _of(plan, "chat"), watcher
        )
        runs += await compare(
            [by_name[name] for name in (CONTINUOUS, SPECULATION)], _of(plan, "code"), watcher
        )
        # Without reuse every turn reads all turns before it: minutes at many users, and the factor is the same.
        few = msgspec.structs.replace(_of(plan, "multi-turn"), loads=_few(plan.loads))
        runs += await compare([by_name[name] for name in (CONTINUOUS, PREFIX)], few, watcher)
    if find_spec(_OPENVINO) is None:
        skipped[MANY] = "openvino-genai is not installed"
        return runs, skipped
    async with _sides(_many_starts(weights, threads, parallel), clock) as sides:
        runs += await compare(sides, _of(plan, "chat"), watcher)
    return runs, skipped


def factors(story: Story) -> list[Factor]:
    """What each layer brings, by load. Pure."""
    first = next((layer.name for layer in LAYERS if layer.name not in story.skipped), NAIVE)
    made = []
    for layer in LAYERS:
        for users in story.loads:
            run = found_run(story.runs, layer.name, layer.workload, users)
            if run is not None:
                made.append(_factor(story, layer, run, first))
    return made


def _factor(story: Story, layer: Layer, run: Run, first: str) -> Factor:
    figures = run.middle
    before = layer.over if layer.over not in story.skipped else None
    earlier_run = found_run(story.runs, before, layer.workload, run.users) if before else None
    earlier = earlier_run.middle if earlier_run else None
    ttft = figures.ttft_ms.p50 if figures.ttft_ms else None
    earlier_ttft = earlier.ttft_ms.p50 if earlier and earlier.ttft_ms else None
    return Factor(
        layer=layer.name,
        workload=layer.workload,
        users=run.users,
        output_tokens_per_s=figures.output_tokens_per_s,
        over_before=gain_of(story.runs, layer.name, before, layer.workload, run.users) if before else None,
        over_first=gain_of(story.runs, layer.name, first, layer.workload, run.users),
        ttft_ms=ttft,
        ttft_over_before=ttft / earlier_ttft if ttft is not None and earlier_ttft else None,
        itl_ms=figures.itl_ms.p50 if figures.itl_ms else None,
    )


class _Start(msgspec.Struct, frozen=True, kw_only=True):
    """A replica and the sides that it serves."""

    launches: Any
    variant: LabVariant
    # Name, gang, and what is added to every body.
    sides: tuple[tuple[str, int | None, dict[str, Any]], ...]
    # The adapter to speak through, where the replica's own words are not OpenAI's.
    speaks: str = ""


def _naive_starts(weights: Weights, threads: int) -> list[_Start]:
    assert weights.folder is not None, "only with a folder"
    variant = _variant(weights.model, weights.folder, threads, 1)
    return [_Start(launches=Naive(), variant=variant, sides=((NAIVE, None, _GREEDY),))]


def _exact_starts(weights: Weights, threads: int) -> list[_Start]:
    variant = _variant(weights.model, weights.exact, threads, 1)
    return [_Start(launches=engine("llamacpp"), variant=variant, sides=((ENGINE, 1, _NO_REUSE),))]


def _served_starts(weights: Weights, threads: int, parallel: int) -> list[_Start]:
    """One replica for what differs in the asking, another for what differs in the launch."""
    plain = _variant(weights.model, weights.served, threads, parallel)
    guessing = msgspec.structs.replace(plain, engine_settings=METHODS["llamacpp"][_METHOD])
    sides = (
        (PRECISION, 1, _NO_REUSE),
        (STATIC, parallel, _NO_REUSE),
        (CONTINUOUS, None, _NO_REUSE),
        (PREFIX, None, _GREEDY),
    )
    return [
        _Start(launches=engine("llamacpp"), variant=plain, sides=sides),
        _Start(launches=engine("llamacpp"), variant=guessing, sides=((SPECULATION, None, _NO_REUSE),)),
    ]


def _many_starts(weights: Weights, threads: int, parallel: int) -> list[_Start]:
    variant = _variant(weights.model, weights.many, threads, parallel)
    return [
        _Start(
            launches=engine("openvino"), variant=variant, sides=((MANY, None, _GREEDY),), speaks="openvino"
        )
    ]


def _variant(model: str, path: Path, threads: int, parallel: int) -> LabVariant:
    return LabVariant(
        model=model, artifact_path=path, context_tokens=_CONTEXT_TOKENS, parallel=parallel, threads=threads
    )


def _of(plan: Plan, workload: str, rounds: int | None = None) -> Plan:
    return msgspec.structs.replace(plan, workloads=(named(workload),), rounds=rounds or plan.rounds)


def _few(loads: Sequence[int]) -> tuple[int, ...]:
    return tuple(users for users in loads if users <= _FEW_USERS) or (min(loads),)


@asynccontextmanager
async def _sides(starts: Sequence[_Start], clock: Clock) -> AsyncIterator[list[Side]]:
    """The sides of these replicas, which run until the block ends."""
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        for start in starts:
            launches: Launches = start.launches
            replica = await stack.enter_async_context(running(launches, start.variant, clock))
            for name, gang, extra in start.sides:
                target = Target(
                    address=replica.address,
                    model=start.variant.model,
                    token=replica.token,
                    extra=extra,
                    engine=start.speaks,
                )
                sides.append(Side(name=name, target=target, gang=gang))
        yield sides
