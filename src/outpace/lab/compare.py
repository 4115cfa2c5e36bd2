"""Ways to serve side by side: the same requests at several loads, in turns, and their figures."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import msgspec

from outpace.lab.figures import LoadFigures, gain, middle
from outpace.lab.gangs import Gangs
from outpace.lab.load import LoadClient, LoadRun, Target, in_turns
from outpace.lab.workload import Conversation, Turn, Workload, conversations


class Watcher(Protocol):
    """Who follows a comparison: told before every round, and what every run showed as soon as it has."""

    def began(self, side: str, workload: str, users: int, number: int) -> None: ...

    def ended(self, run: "Run") -> None: ...


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve, behind an endpoint that answers already."""

    name: str
    target: Target
    # Requests are ganged: static batching. None: the server batches as it likes.
    gang: int | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A side at a load on a workload: its rounds, and the median one."""

    side: str
    workload: str
    users: int
    rounds: tuple[LoadFigures, ...]

    @property
    def middle(self) -> LoadFigures:
        """The median round."""
        return middle(self.rounds)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: so many conversations for each user, at each load, with answers cut to fit the time."""

    workloads: tuple[Workload, ...]
    loads: tuple[int, ...]
    rounds: int = 1
    per_user: int = 2
    least_conversations: int = 4
    most_output_tokens: int | None = None


async def compare(sides: Sequence[Side], plan: Plan, watcher: Watcher) -> list[Run]:
    """Every workload at every load on every side, the sides in turns."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(LoadClient(side.target)) for side in sides]
        found: list[Run] = []
        for workload in plan.workloads:
            for users in plan.loads:
                asks = [
                    _ask(client, side, workload, users, plan, watcher)
                    for client, side in zip(clients, sides, strict=True)
                ]
                figures = await in_turns(plan.rounds, asks)
                for side, rounds in zip(sides, figures, strict=True):
                    run = Run(side=side.name, workload=workload.name, users=users, rounds=tuple(rounds))
                    watcher.ended(run)
                    found.append(run)
        return found


def found_run(runs: Sequence[Run], side: str, workload: str, users: int) -> Run | None:
    """The run of a side at a load."""
    wanted = (side, workload, users)
    return next((run for run in runs if (run.side, run.workload, run.users) == wanted), None)


def gain_of(runs: Sequence[Run], side: str, over: str, workload: str, users: int) -> float | None:
    """How many times more tokens/s one side gives than another; None without both."""
    one, other = found_run(runs, side, workload, users), found_run(runs, over, workload, users)
    return None if one is None or other is None else gain(one.rounds, other.rounds)


def cut(asked: Sequence[Conversation], most_output_tokens: int | None) -> list[Conversation]:
    """The same conversations with shorter answers."""
    if most_output_tokens is None:
        return list(asked)
    return [
        msgspec.structs.replace(
            talk,
            turns=tuple(
                Turn(text=turn.text, output_tokens=min(turn.output_tokens, most_output_tokens))
                for turn in talk.turns
            ),
        )
        for talk in asked
    ]


def _ask(
    client: LoadClient, side: Side, workload: Workload, users: int, plan: Plan, watcher: Watcher
) -> Callable[[int], Awaitable[LoadRun]]:
    count = max(plan.per_user * users, plan.least_conversations)

    async def run(number: int) -> LoadRun:
        watcher.began(side.name, workload.name, users, number)
        asked = cut(conversations(workload, count, seed=100 * users + number), plan.most_output_tokens)
        gangs = Gangs(side.gang) if side.gang is not None else None
        return await client.closed(asked, users, gangs=gangs)

    return run
