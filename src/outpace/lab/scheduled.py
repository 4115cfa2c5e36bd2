"""The policies of `scheduling` in front of real replicas, without a gateway between: what each of them is worth.

The queue, its line and its routing are those of a gateway worker; only HTTP, keys and the journal are left out, so that
two policies differ in nothing but the policy.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from statistics import median

import msgspec

from outpace.lab.figures import LoadFigures, Sample, summed
from outpace.lab.load import LoadClient, Target
from outpace.lab.replica import LabReplica
from outpace.lab.workload import Conversation
from outpace.scheduling.queue import ReplicaQueue
from outpace.scheduling.tickets import Ticket
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry, VariantEntry
from outpace.values.usage import Usage

_CHARS_PER_TOKEN = 4
_DEADLINE_S = 600.0
# The key that floods asks this many at once; the other one at a time.
FLOOD_USERS = 64
_FLOOD_TOKENS = 64
_SMALL_TOKENS = 8


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What the replicas serve, how many requests each runs at once, and how fast it reads, where that is known."""

    model: str
    places: int
    engine: str = "llamacpp"
    prefill_tokens_per_s: float | None = None


class Scheduled:
    """Replicas behind one queue. Use it as a context; `ask` is one request of a key."""

    def __init__(self, replicas: Sequence[LabReplica], side: Side, order: str, clock: Clock) -> None:
        self._clock = clock
        entries = tuple(
            ReplicaEntry(
                id=f"r{number}", address=replica.address, token=replica.token, max_in_flight=side.places
            )
            for number, replica in enumerate(replicas)
        )
        self.queue = ReplicaQueue(clock.monotonic_s, order=order)
        self.queue.update(_entry(side, entries))
        self._clients = {
            entry.id: LoadClient(
                Target(address=entry.address, model=side.model, token=entry.token, engine=side.engine), clock
            )
            for entry in entries
        }
        # Tokens that each replica worked on: read anew, and written.
        self.work: Counter[str] = Counter()

    async def __aenter__(self) -> "Scheduled":
        for client in self._clients.values():
            await client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients.values():
            await client.__aexit__(None, None, None)

    async def ask(
        self, key: str, messages: Sequence[dict[str, str]], output_tokens: int, began_s: float
    ) -> Sample:
        """One request through the queue; its sample begins when it began to wait."""
        now_s = self._clock.monotonic_s()
        ticket = Ticket(
            key,
            arrived_s=now_s,
            deadline_s=now_s + _DEADLINE_S,
            prompt_tokens=sum(len(message["content"]) for message in messages) // _CHARS_PER_TOKEN,
            output_tokens=output_tokens,
            affinity=_prefix(messages) if len(self._clients) > 1 else None,
        )
        self.queue.arrive(ticket)
        replica = self.queue.take(ticket) or await self.queue.wait(ticket)
        usage = None
        try:
            wrote = partial(self.queue.wrote, replica.id, ticket)
            sample = await self._clients[replica.id].ask(messages, output_tokens, began_s, wrote)
            usage = Usage(sample.prompt_tokens, sample.output_tokens, sample.cached_tokens)
            self.work[replica.id] += sample.prompt_tokens - sample.cached_tokens + sample.output_tokens
        finally:
            self.queue.release(replica.id, ticket, usage)
        return msgspec.structs.replace(sample, began_s=now_s - began_s)

    async def talk(self, key: str, conversation: Conversation, began_s: float) -> list[Sample]:
        """The turns of a conversation, one after the other."""
        messages, samples = list(conversation.before), []
        for turn in conversation.turns:
            messages.append({"role": "user", "content": turn.text})
            samples.append(await self.ask(key, messages, turn.output_tokens, began_s))
            messages.append({"role": "assistant", "content": samples[-1].text})
        return samples

    async def closed(self, asked: Sequence[Conversation], users: int) -> LoadFigures:
        """So many users, each taking the next conversation when its last one ended."""
        began_s, waiting = self._clock.monotonic_s(), list(reversed(asked))
        samples: list[Sample] = []

        async def user() -> None:
            while waiting:
                samples.extend(await self.talk("user", waiting.pop(), began_s))

        await asyncio.gather(*(user() for _ in range(users)))
        return summed(samples, self._clock.monotonic_s() - began_s)

    @property
    def imbalance(self) -> float:
        """Work of the busiest replica over the mean."""
        if not self.work:
            return 1.0
        return max(self.work.values()) * len(self._clients) / sum(self.work.values())


class Fairness(msgspec.Struct, frozen=True, kw_only=True):
    """Time to first token of a key that asks one at a time, and the flood's time between tokens.

    `flood_step_ms` is None where no flooding request ended meanwhile.
    """

    ttft_p50_ms: float
    ttft_p95_ms: float
    flood_step_ms: float | None
    prefill_tokens_per_s: float


async def small_key(scheduled: Scheduled, prompts: Sequence[str], clock: Clock, *, flooded: bool) -> Fairness:
    """Ask as a small key, alone or while another key floods with long requests. Raises EngineFailed."""
    began_s = clock.monotonic_s()
    steps: list[Sample] = []

    async def flood(number: int) -> None:
        while True:
            text = f"{number}: {prompts[number % len(prompts)]}"
            steps.append(await scheduled.ask("flood", [_said(text)], _FLOOD_TOKENS, began_s))

    await scheduled.ask("small", [_said(prompts[0])], _SMALL_TOKENS, began_s)
    floods = [asyncio.create_task(flood(number)) for number in range(FLOOD_USERS if flooded else 0)]
    if flooded:
        # The flood fills every place it may have.
        while scheduled.queue.waiting == 0:
            await clock.sleep(0.05)
    samples = [await scheduled.ask("small", [_said(text)], _SMALL_TOKENS, began_s) for text in prompts]
    for task in floods:
        task.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    figures = summed(samples, clock.monotonic_s() - began_s)
    if figures.ttft_ms is None:
        raise EngineFailed(f"no question was answered: {', '.join(figures.error_texts)}")
    step_ms = summed(steps, clock.monotonic_s() - began_s).itl_ms
    read = [each.prompt_tokens / each.ttft_s for each in samples if each.ttft_s]
    return Fairness(
        ttft_p50_ms=figures.ttft_ms.p50,
        ttft_p95_ms=figures.ttft_ms.p95,
        flood_step_ms=step_ms.p50 if step_ms else None,
        prefill_tokens_per_s=median(read),
    )


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _prefix(messages: Sequence[dict[str, str]]) -> bytes:
    """As the gateway has it: up to the first user message."""
    digest = hashlib.blake2b(digest_size=8)
    for message in messages:
        digest.update(message["content"].encode())
        if message["role"] == "user":
            break
    return digest.digest()


def _entry(side: Side, replicas: tuple[ReplicaEntry, ...]) -> DeploymentEntry:
    return DeploymentEntry(
        name=side.model,
        model=side.model,
        engine_model=side.model,
        engine=side.engine,
        state="ready",
        created=0,
        owned_by="lab",
        tasks=("chat",),
        replicas=replicas,
        variants=(
            VariantEntry(
                id="",
                engine=side.engine,
                engine_model=side.model,
                prefill_tokens_per_s=side.prefill_tokens_per_s,
            ),
        ),
    )
