"""Ways of speculation against none, on the same requests in turns."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from outpace.engines.facts import GATED_KV, engine_version
from outpace.engines.registry import engine
from outpace.engines.speculation import METHODS, SWITCHED
from outpace.hardware.machine import detect, machine_name
from outpace.lab.compare import Plan, Run, Side, Watcher, compare, gain_of
from outpace.lab.load import Target
from outpace.lab.making import produce, source_of
from outpace.lab.precisions import Precisions
from outpace.lab.profiled import Profiled, Variant
from outpace.lab.proven import SAFER_FORMATS
from outpace.lab.replica import LabVariant, running
from outpace.scheduling.speculation import MethodChoice, choose_method
from outpace.values.clock import Clock, SystemClock
from outpace.values.errors import InvalidInput
from outpace.values.home import Home
from outpace.values.profile import SpeculationPoint

OFF = "off"
_CONTEXT_TOKENS = 1024


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, and what `auto` would make of it."""

    model: str
    artifact: str
    engine_version: str
    machine: str
    runs: tuple[Run, ...]
    choice: MethodChoice

    def gain(self, run: Run) -> float | None:
        """Of a run over the same without speculation; None for that one itself."""
        return None if run.side == OFF else gain_of(self.runs, run.side, OFF, run.workload, run.users)


def variant_here(home: Home, model: str, threads: int, name: str = "llamacpp") -> Variant:
    """What would be served of a model here, on the engine `name`: the number format that layer two takes now.

    Another engine than llama.cpp gets a format that it reads well. Raises InvalidInput.
    """
    if name not in METHODS:
        raise InvalidInput(
            "--engine", f"{name[:40]!r} guesses nothing here; there is {', '.join(sorted(METHODS))}"
        )
    product = Precisions(home.artifacts, detect(), SystemClock()).choose(model).product
    if name in GATED_KV and product.precision not in SAFER_FORMATS:
        product = produce(source_of(model, home.artifacts), SAFER_FORMATS[0], home.artifacts)
    return Variant(
        model=product.model,
        artifact_path=str(product.path),
        engine=name,
        engine_version=engine_version(name),
        threads=threads,
        artifacts_dir=str(home.artifacts),
    )


async def try_methods(
    home: Home, variant: Variant, methods: Sequence[str], plan: Plan, clock: Clock, watcher: Watcher
) -> Trial:
    """Every method against none. Raises InvalidInput for a method that cannot be, EngineFailed."""
    profiled = Profiled(home.artifacts, home.profiles)
    settings = {method: profiled.tune(method, variant).settings for method in (OFF, *methods)}
    async with AsyncExitStack() as stack:
        sides = []
        for method, own in settings.items():
            launched = LabVariant(
                model=variant.model,
                artifact_path=Path(variant.artifact_path),
                context_tokens=_CONTEXT_TOKENS,
                parallel=max(plan.loads),
                threads=variant.threads,
                artifacts_dir=variant.artifacts_dir,
                engine_settings=own,
            )
            replica = await stack.enter_async_context(running(engine(variant.engine), launched, clock))
            target = Target(
                address=replica.address, model=variant.model, token=replica.token, engine=variant.engine
            )
            sides.append(Side(name=method, target=target))
        runs = await compare(sides, plan, watcher)
    return Trial(
        model=variant.model,
        artifact=Path(variant.artifact_path).parent.name,
        engine_version=variant.engine_version or variant.engine,
        machine=machine_name(detect()),
        runs=tuple(runs),
        choice=choose_method(points_of(runs), is_switched=variant.engine in SWITCHED),
    )


def points_of(runs: Sequence[Run]) -> list[SpeculationPoint]:
    """What a profile would hold of these runs."""
    points = []
    for run in runs:
        gain = gain_of(runs, run.side, OFF, run.workload, run.users)
        if run.side != OFF and gain is not None:
            points.append(
                SpeculationPoint(
                    method=run.side,
                    workload=run.workload,
                    users=run.users,
                    gain=gain,
                    drafted_tokens=sum(each.drafted_tokens for each in run.rounds),
                    accepted_tokens=sum(each.accepted_tokens for each in run.rounds),
                )
            )
    return points
