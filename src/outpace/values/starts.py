"""What a start cost, phase by phase: the cold-start bill."""

from typing import Literal

import msgspec

# In the order in which they happen; an engine has those that it tells.
# place: the order reaches the pool and a process is there · fetch: weights come to a machine that lacks them
# process: the interpreter starts · memory: is taken from the kernel ahead · import: the engine's code
# weights: read into memory · load, compile, warm_up: the engine's own · first_token: the probe's · canary: its prompts
PHASES = (
    "place",
    "fetch",
    "process",
    "memory",
    "import",
    "weights",
    "load",
    "compile",
    "warm_up",
    "first_token",
    "canary",
)
# Between the phases: the wait until control notices that the replica listens, mostly.
OTHER = "other"
# What had been done ahead.
StartedFrom = Literal["nothing", "imported"]


class StartBill(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a replica that came up; durations in seconds by phase, together `total_s` with `other`."""

    replica: str
    # Wall clock at the decision to start it.
    at: float
    total_s: float
    started_from: StartedFrom = "nothing"
    phases: dict[str, float] = {}

    @property
    def slowest(self) -> str:
        """The phase that took longest; `other` when nothing else was told."""
        return max(self.phases, key=self.phases.__getitem__, default=OTHER)


def start_bill(
    replica: str, at: float, total_s: float, phases: dict[str, float], started_from: StartedFrom
) -> StartBill:
    """The bill of one start: known phases in their order, and what lies between them."""
    known = {phase: phases[phase] for phase in PHASES if phase in phases}
    # A process tells its age in steps of 10 ms, so the sum may pass the total by as much.
    other_s = max(0.0, total_s - sum(known.values()))
    return StartBill(
        replica=replica, at=at, total_s=total_s, started_from=started_from, phases={**known, OTHER: other_s}
    )
