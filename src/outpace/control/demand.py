"""What gateway workers have told of their load, summed by deployment. Holds state; its clock is an argument."""

from outpace.scheduling.autoscale import Pressure
from outpace.values.signals import Demand, DeploymentDemand

# A worker repeats a demand while it holds: one that is silent for longer has ended, or its last word was lost.
_STALE_AFTER_S = 5.0
_NOTHING = DeploymentDemand()


class Demands:
    """The last word of every worker, and when each deployment last had something to do."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[float, dict[str, DeploymentDemand]]] = {}
        self._active_s: dict[str, float] = {}

    def take(self, demand: Demand, now_s: float) -> None:
        """Take in one worker's demand."""
        _, before = self._told.get(demand.worker, (0.0, {}))
        for name, told in demand.deployments.items():
            earlier = before.get(name, _NOTHING)
            if told.waiting or told.running or earlier.running or told.arrived != earlier.arrived:
                self._active_s[name] = now_s
        self._told[demand.worker] = (now_s, {**before, **demand.deployments})

    def touch(self, name: str, now_s: float) -> None:
        """Something happened that counts as activity: a start, a token, a wish of a person."""
        self._active_s[name] = max(now_s, self._active_s.get(name, now_s))

    def pressure(self, name: str, now_s: float) -> Pressure:
        """A deployment's load over all workers."""
        told = [
            deployments[name]
            for told_s, deployments in self._told.values()
            if name in deployments and now_s - told_s < _STALE_AFTER_S
        ]
        waiting, running = sum(one.waiting for one in told), sum(one.running for one in told)
        if waiting + running:
            self._active_s[name] = now_s
        return Pressure(
            waiting=waiting,
            running=running,
            idle_for_s=max(0.0, now_s - self._active_s.get(name, now_s)),
        )

    def forget(self, name: str) -> None:
        """A deployment is not wanted any more."""
        self._active_s.pop(name, None)
