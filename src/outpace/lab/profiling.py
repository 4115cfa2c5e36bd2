"""The sweep that makes a profile: a short calibrated look at a variant, on a replica of its own."""

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median

import msgspec

from outpace.engines.openvino_config import graphs_that_guess
from outpace.engines.protocol import Engine
from outpace.engines.speculation import METHODS, SWITCHED
from outpace.lab.figures import LoadFigures, gain
from outpace.lab.load import LoadClient, Target
from outpace.lab.profiled import TEXTS, TRIED
from outpace.lab.prompts import filler
from outpace.lab.replica import LabReplica, LabVariant, running
from outpace.lab.workload import Conversation, Turn, conversations, named
from outpace.scheduling.profiles import is_cut
from outpace.scheduling.speculation import MANY_USERS
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed, InvalidInput
from outpace.values.profile import LOADS, Conditions, LoadPoint, Profile, SpeculationPoint

BUDGET_S = 30.0
# Of the budget: the rest is for speculation.
_SPEEDS_SHARE = 0.4
# Of a further one, what is left when the replicas are up.
_STEPS_SHARE = 0.5
_PREFILL_WORDS = 256
_PREFILL_ROUNDS = 3
_TOKENS = 16
# Speculation is tried where its gain is largest, where it may cost, and in the middle.
_SPECULATION_LOADS = (1, MANY_USERS, 4)
_SPECULATION_TOKENS = dict(zip(TEXTS, (40, 16), strict=True))
# What their prompts have, about.
_PROMPT_TOKENS = dict(zip(TEXTS, (275, 45), strict=True))
# So many tokens of each answer are asked first: shapes of steps that an engine meets for the first time take longer.
_WARMING_TOKENS = 4
# One answer alone is too short to tell.
_LEAST_ANSWERS = 3
_SPECULATION_ROUNDS = 1
_CONTEXT_TOKENS = 512
# Weights that an engine repacks, and its KV cache.
_OVERHEAD = 2.5
_MOST_OF_MEMORY = 0.5

# Told what is measured now, and how much of the budget is used (0 to 1).
Say = Callable[[str, float], None]


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What to profile: a variant under its conditions, and the settings that turn each way of speculation on."""

    conditions: Conditions
    variant: LabVariant
    speculation: dict[str, dict[str, str | int | float | bool]] = {}
    budget_s: float = BUDGET_S


def sweep_of(
    conditions: Conditions, artifact_path: Path, available_bytes: int, artifacts_dir: str = ""
) -> Sweep:
    """The sweep that fits beside what runs: with speculation where a second replica fits, too.

    Raises InvalidInput when not even one does.
    """
    weights_bytes = artifact_path.stat().st_size
    needed = _OVERHEAD * weights_bytes
    copies = int(_MOST_OF_MEMORY * available_bytes / needed)
    if not copies:
        raise InvalidInput("deployment", "there is no memory for a second replica to measure; stop one first")
    threads = int(conditions.settings.get("threads", 1))
    settings = {name: value for name, value in conditions.settings.items() if name != "threads"}
    return Sweep(
        conditions=conditions,
        variant=LabVariant(
            model=conditions.model,
            artifact_path=artifact_path,
            context_tokens=_CONTEXT_TOKENS,
            parallel=LOADS[-1],
            threads=threads,
            artifacts_dir=artifacts_dir,
            engine_settings=settings,
        ),
        speculation={method: METHODS[conditions.engine][method] for method in TRIED}
        if copies >= _copies_with_guesses(conditions.engine, weights_bytes)
        else {},
    )


def _copies_with_guesses(engine: str, weights_bytes: int) -> int:
    """How often the weights are in memory beside what runs: one replica without guesses, and one with them."""
    return 2 + graphs_that_guess(weights_bytes) if engine in SWITCHED else 2


async def profile(sweep: Sweep, engine: Engine, clock: Clock, say: Say = lambda what, share: None) -> Profile:
    """The profile, within the budget: loads that no longer fit are left out. Raises EngineFailed, EngineTimedOut."""
    timer = _Timer(sweep.budget_s, clock)
    async with _client(sweep.variant, engine, clock) as (client, load_s):
        say("prefill", timer.used)
        prefill = await _prefill(client)
        points, read_per_output = await _points(client, sweep.variant.parallel, timer, say)
        made = Profile(
            conditions=sweep.conditions,
            measured_at=clock.wall_s(),
            took_s=0.0,
            load_s=load_s,
            prefill_tokens_per_s=prefill,
            points=points,
            read_per_output=read_per_output,
        )
        speculation = await _speculation(sweep, engine, client, made, timer, clock, say)
    return msgspec.structs.replace(made, took_s=timer.used * sweep.budget_s, speculation=speculation)


async def go_on(
    known: Profile, sweep: Sweep, engine: Engine, clock: Clock, say: Say = lambda what, share: None
) -> Profile:
    """A partial profile with more loads and more of what speculation gains, in another budget.

    The same when nothing fits in one. Raises EngineFailed, EngineTimedOut.
    """
    timer = _Timer(sweep.budget_s, clock)
    users = _next_load(known, sweep)
    steps = [step for step in _pending(known, sweep) if _fits(step, known, _STEPS_SHARE * sweep.budget_s)]
    if users is None and not steps:
        return known
    async with _client(sweep.variant, engine, clock) as (client, _):
        made = known
        if users is not None:
            say(f"decode speed of {users} at once", timer.used)
            point = _point(users, await _decode(client, users))
            made = msgspec.structs.replace(known, points=(*known.points, point))
        found = await _speculation(sweep, engine, client, made, timer, clock, say)
    if users is None and not found:
        # Another time: the replicas took too long to come up. Another profile would be gone on with at once.
        return known
    return msgspec.structs.replace(
        made,
        measured_at=clock.wall_s(),
        took_s=known.took_s + timer.used * sweep.budget_s,
        speculation=(*known.speculation, *found),
    )


def _next_load(known: Profile, sweep: Sweep) -> int | None:
    """The load behind the last one, where speed was still rising and it fits in a sweep."""
    if not is_cut(known.points):
        return None
    last = known.points[-1]
    users = min(load for load in LOADS if load > last.users)
    reading_s = users * _PROMPT_TOKENS["chat"] / max(known.prefill_tokens_per_s, 1e-9)
    seconds = reading_s + users * _TOKENS / last.output_tokens_per_s
    return users if users <= sweep.variant.parallel and seconds < _SPEEDS_SHARE * sweep.budget_s else None


class _Timer:
    def __init__(self, budget_s: float, clock: Clock) -> None:
        self._budget_s, self._clock = budget_s, clock
        self._began_s = clock.monotonic_s()

    @property
    def used(self) -> float:
        """Share of the budget."""
        return (self._clock.monotonic_s() - self._began_s) / self._budget_s

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until `share` of the budget is used."""
        return (share - self.used) * self._budget_s

    def now_s(self) -> float:
        return self._clock.monotonic_s()


@contextlib.asynccontextmanager
async def _client(
    variant: LabVariant, engine: Engine, clock: Clock
) -> AsyncIterator[tuple[LoadClient, float]]:
    """A replica that has given its first token, and the seconds that took."""
    began_s = clock.monotonic_s()
    async with (
        running(engine, variant, clock) as replica,
        LoadClient(_target(engine, variant, replica), clock) as client,
    ):
        first = await client.ask([{"role": "user", "content": "Hello"}], 1, began_s)
        if first.error is not None:
            raise EngineFailed(f"the replica to be profiled did not answer: {first.error}")
        yield client, first.ended_s


def _target(engine: Engine, variant: LabVariant, replica: LabReplica) -> Target:
    return Target(address=replica.address, model=variant.model, token=replica.token, engine=engine.name)


async def _prefill(client: LoadClient) -> float:
    """Prompt tokens per second of one request alone, the part that was cached left out."""
    rates = []
    for number in range(_PREFILL_ROUNDS):
        words = filler(random.Random(f"prefill/{number}"), _PREFILL_WORDS)
        sample = await client.ask([{"role": "user", "content": words}], 1, 0.0)
        if sample.error is not None:
            raise EngineFailed(f"a prompt of {_PREFILL_WORDS} words was refused: {sample.error}")
        spent_s = sample.ended_s - sample.began_s
        rates.append((sample.prompt_tokens - sample.cached_tokens) / max(spent_s, 1e-9))
    return median(rates)


async def _points(
    client: LoadClient, parallel: int, timer: _Timer, say: Say
) -> tuple[tuple[LoadPoint, ...], float]:
    """Speeds by load, and the prompt tokens that were read per output token meanwhile."""
    points: list[LoadPoint] = []
    read_tokens = output_tokens = 0
    last_s = 0.0
    for users in LOADS:
        # Twice the users take at most about twice as long.
        if users > parallel or (points and 2 * last_s > timer.left_s(_SPEEDS_SHARE)):
            break
        say(f"decode speed of {users} at once", timer.used)
        began_s = timer.now_s()
        figures = await _decode(client, users)
        points.append(_point(users, figures))
        read_tokens += figures.prompt_tokens - figures.cached_tokens
        output_tokens += figures.output_tokens
        last_s = timer.now_s() - began_s
    return tuple(points), read_tokens / max(1, output_tokens)


async def _decode(client: LoadClient, users: int) -> LoadFigures:
    asked = _asked("chat", users, _TOKENS, seed=users)
    return _sound((await client.closed(asked, users)).figures)


def _point(users: int, figures: LoadFigures) -> LoadPoint:
    return LoadPoint(
        users=users,
        output_tokens_per_s=figures.output_tokens_per_s,
        ttft_ms=figures.ttft_ms.p50 if figures.ttft_ms else None,
        itl_ms=figures.itl_ms.p50 if figures.itl_ms else None,
    )


async def _speculation(
    sweep: Sweep,
    engine: Engine,
    without: LoadClient,
    known: Profile,
    timer: _Timer,
    clock: Clock,
    say: Say,
) -> tuple[SpeculationPoint, ...]:
    """What every method gains, in the time that is left; the figures without it tell how long each step will take."""
    found: list[SpeculationPoint] = []
    for method, settings in sweep.speculation.items():
        pending = [step for step in _pending(known, sweep) if step.method == method]
        if not pending or not _fits(pending[0], known, timer.left_s()):
            continue
        variant = msgspec.structs.replace(
            sweep.variant, engine_settings={**sweep.variant.engine_settings, **settings}
        )
        say(f"speculation {method}", timer.used)
        async with _client(variant, engine, clock) as (client, _):
            for step in pending:
                if not _fits(step, known, timer.left_s()):
                    break
                say(f"speculation {method}, {step.workload}, {step.users} at once", timer.used)
                found.append(await _gain(step, client, without))
    return tuple(found)


class _Step(msgspec.Struct, frozen=True):
    """One comparison of on and off."""

    method: str
    users: int
    workload: str

    @property
    def tokens(self) -> int:
        """Of each answer."""
        return _SPECULATION_TOKENS[self.workload]

    @property
    def answers(self) -> int:
        return max(self.users, _LEAST_ANSWERS)


def _pending(known: Profile, sweep: Sweep) -> list[_Step]:
    """What is not measured yet, the most telling first."""
    loads = [load for load in _SPECULATION_LOADS if load <= sweep.variant.parallel]
    steps = [
        _Step(method, users, workload)
        for method in sweep.speculation
        for users in loads
        for workload in _SPECULATION_TOKENS
    ]
    done = {(point.method, point.users, point.workload) for point in known.speculation}
    return [step for step in steps if (step.method, step.users, step.workload) not in done]


def _fits(step: _Step, known: Profile, left_s: float) -> bool:
    """Both sides, warming and all rounds, by the rate of reading and the speed at the nearest load."""
    nearest = min(known.points, key=lambda point: abs(point.users - step.users))
    read = (step.users + _SPECULATION_ROUNDS * step.answers) * _PROMPT_TOKENS[step.workload]
    said = _SPECULATION_ROUNDS * step.answers * step.tokens
    seconds = read / max(known.prefill_tokens_per_s, 1e-9) + said / max(nearest.output_tokens_per_s, 1e-9)
    return 2 * seconds <= left_s


async def _gain(step: _Step, client: LoadClient, without: LoadClient) -> SpeculationPoint:
    on: list[LoadFigures] = []
    off: list[LoadFigures] = []
    workload, users = step.workload, step.users
    warming = _asked(workload, users, _WARMING_TOKENS, seed=1000 * users + 500)
    for side in (client, without):
        _sound((await side.closed(warming, users)).figures)
    for number in range(_SPECULATION_ROUNDS):
        # Never the same question twice: a cache of earlier answers would guess it all.
        asked = _asked(workload, step.answers, step.tokens, seed=1000 * users + number)
        sides = ((client, on), (without, off))
        for side, figures in sides if number % 2 == 0 else reversed(sides):
            figures.append(_sound((await side.closed(asked, users)).figures))
    return SpeculationPoint(
        method=step.method,
        workload=workload,
        users=users,
        gain=gain(on, off),
        drafted_tokens=sum(run.drafted_tokens for run in on),
        accepted_tokens=sum(run.accepted_tokens for run in on),
        prompt_tokens=sum(run.prompt_tokens for run in on) / max(1, sum(run.requests for run in on)),
    )


def _asked(workload: str, users: int, tokens: int, seed: int) -> list[Conversation]:
    made = conversations(named(workload), users, seed=seed)
    return [Conversation(turns=(Turn(text=talk.turns[0].text, output_tokens=tokens),)) for talk in made]


def _sound(figures: LoadFigures) -> LoadFigures:
    if figures.errors:
        raise EngineFailed(f"the replica failed while it was profiled: {next(iter(figures.error_texts))}")
    return figures
