"""What gateway workers have told of their load, summed by deployment. Holds state; its clock is an argument."""

from collections import deque

from outpace.scheduling.arrivals import Arrivals, Lengths
from outpace.scheduling.attainment import Goal
from outpace.scheduling.autoscale import Pressure
from outpace.values.deployment import Traffic
from outpace.values.records import Reserved, Settled
from outpace.values.signals import Demand, DeploymentDemand

# A worker repeats a demand while it holds: one that is silent for longer has ended, or its last word was lost.
_STALE_AFTER_S = 5.0
_NOTHING = DeploymentDemand()
# Until requests have ended, where the file says nothing of them: a short question and its answer.
_INPUT_TOKENS = 200
_OUTPUT_TOKENS = 100
_ANSWERS_KEPT = 200


class Demands:
    """The last word of every worker, and what is known of each deployment's traffic."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[float, dict[str, DeploymentDemand]]] = {}
        self._active_s: dict[str, float] = {}
        self._arrivals: dict[str, Arrivals] = {}
        self._lengths: dict[str, Lengths] = {}
        # Seconds to the first token and between tokens.
        self._answers: dict[str, deque[tuple[float, float | None]]] = {}
        self._ended: deque[tuple[Reserved, Settled]] = deque()

    def expect(self, name: str, traffic: Traffic) -> None:
        """What a deployment's file says of its requests; those that end tell better."""
        if name not in self._lengths:
            input_tokens = traffic.input_tokens or _INPUT_TOKENS
            self._lengths[name] = Lengths(input_tokens, traffic.output_tokens or _OUTPUT_TOKENS)
            self._arrivals[name] = Arrivals()
            self._answers[name] = deque(maxlen=_ANSWERS_KEPT)

    def take(self, demand: Demand, now_s: float) -> None:
        """Take in one worker's demand."""
        _, before = self._told.get(demand.worker, (0.0, {}))
        for name, told in demand.deployments.items():
            earlier = before.get(name, _NOTHING)
            if told.waiting or told.running or earlier.running or told.arrived != earlier.arrived:
                self._active_s[name] = now_s
            if name in self._arrivals:
                # A worker that was started again counts from zero.
                fresh = told.arrived - earlier.arrived
                self._arrivals[name].add(fresh if fresh >= 0 else told.arrived, now_s)
        self._told[demand.worker] = (now_s, {**before, **demand.deployments})

    def learn(self, reserved: Reserved, settled: Settled) -> None:
        """A request ended. Called from the ledger's thread; `pressure` takes it in."""
        self._ended.append((reserved, settled))

    def touch(self, name: str, now_s: float) -> None:
        """Something happened that counts as activity: a start, a token, a wish of a person."""
        self._active_s[name] = max(now_s, self._active_s.get(name, now_s))

    def pressure(self, name: str, now_s: float) -> Pressure:
        """A deployment's load over all workers."""
        self._take_ended()
        told = [
            deployments[name]
            for told_s, deployments in self._told.values()
            if name in deployments and now_s - told_s < _STALE_AFTER_S
        ]
        waiting, running = sum(one.waiting for one in told), sum(one.running for one in told)
        if waiting + running:
            self._active_s[name] = now_s
        idle_for_s = max(0.0, now_s - self._active_s.get(name, now_s))
        if name not in self._lengths:
            return Pressure(waiting=waiting, running=running, idle_for_s=idle_for_s)
        traffic = self._lengths[name].traffic(self._arrivals[name].per_s(now_s))
        return Pressure(waiting=waiting, running=running, idle_for_s=idle_for_s, traffic=traffic)

    def attained(self, name: str, goal: Goal) -> tuple[float, int] | None:
        """The share of the last answers within a goal, and their number; None when there are none."""
        self._take_ended()
        answers = self._answers.get(name)
        if not answers:
            return None
        return sum(goal.is_met(*answer) for answer in answers) / len(answers), len(answers)

    def unhear(self, name: str) -> None:
        """Forget who waits and runs until workers say it again; their counts of arrivals stay."""
        for _, deployments in self._told.values():
            if name in deployments:
                told = deployments[name]
                deployments[name] = DeploymentDemand(arrived=told.arrived, arrived_tokens=told.arrived_tokens)

    def forget(self, name: str) -> None:
        """A deployment is not wanted any more."""
        for kept in (self._active_s, self._arrivals, self._lengths, self._answers):
            kept.pop(name, None)

    def _take_ended(self) -> None:
        while self._ended:
            reserved, settled = self._ended.popleft()
            name, usage = reserved.deployment, settled.usage
            if settled.outcome != "completed" or name not in self._lengths:
                continue
            self._lengths[name].add(usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens)
            if settled.ttft_s is not None:
                self._answers[name].append((settled.ttft_s, _gap_s(settled)))


def _gap_s(settled: Settled) -> float | None:
    """Mean time between tokens of an answer."""
    after_first = settled.usage.completion_tokens - 1
    if settled.ttft_s is None or after_first < 1:
        return None
    return (settled.duration_s - settled.ttft_s) / after_first
