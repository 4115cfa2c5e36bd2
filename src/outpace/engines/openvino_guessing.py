"""Sequences that guess ahead, on a graph that is run by ourselves.

OpenVINO GenAI's own look-up guesses the same number of tokens for every sequence at every step, takes one token for a
match, and tells nobody how its guesses fare. Here each step guesses what pays on this machine, per sequence.

The engine prepares anew for a step of another length than the last one, which for a small model takes half as long as
the step itself. So steps that guess run on a graph of their own where the weights are small enough to be held once
more, and are filled up to the last one's length where that is quicker.
"""

import itertools
import math
from pathlib import Path

import msgspec
import numpy as np

from outpace.engines.lookup import MOST_GUESSED, Lookup, Others, StepCosts, StepTimes
from outpace.engines.lookup_memory import MEMORY_RUNS, Memories, Memory
from outpace.engines.openvino_config import OpenVinoConfig, graphs_that_guess
from outpace.engines.openvino_graph import Graph, Logits, Part
from outpace.engines.openvino_library import weights_bytes
from outpace.engines.openvino_pages import Seat, Tokens
from outpace.engines.openvino_wire import Piece, Sampling
from outpace.engines.sampling import pick
from outpace.values.clock import SystemClock

# Steps of so many tokens are timed at the start.
_TIMED_TOKENS = (1, 2, 4, 8, 12, 16, MOST_GUESSED + 1)
_PLAIN_TOKENS = (1, 8, MOST_GUESSED + 1)
_TIMED_ROUNDS = 2
_FILLERS = np.zeros(MOST_GUESSED + 1, dtype=np.int64)
# Enough to guess how an answer begins: one of the runs that are looked for.
_BEFORE_ANSWER = MEMORY_RUNS[1]
_CLOCK = SystemClock()


class _Sequence:
    """One sequence and its seat."""

    def __init__(self, prompt: Tokens, seat: Seat, sampling: Sampling, tenant: str, memory: Memory) -> None:
        self.prompt = prompt
        self.seat = seat
        self.sampling = sampling
        self.tenant = tenant
        self.memory = memory
        self.lookup = Lookup(prompt.tolist(), memory)
        self.dice = np.random.default_rng(sampling.seed)
        # Tokens whose keys and values are in the pages, and what was said.
        self.past = seat.known_tokens
        self.said: list[int] = []
        self.guess: list[int] = []
        self.is_dropped = False

    @property
    def room(self) -> int:
        """Tokens that may be guessed: the last one is never a guess."""
        return self.sampling.max_tokens - len(self.said) - 1

    def reading(self, most: int) -> Part:
        """The next piece of the prompt."""
        tokens = self.prompt[self.past : self.past + most]
        return Part(tokens=tokens, past=self.past, pages=self.seat.pages)

    def answer(self) -> list[int]:
        """What was said, behind the last tokens of the prompt."""
        return [*self.prompt[-_BEFORE_ANSWER:].tolist(), *self.said]

    def deciding(self) -> Part:
        """The last token said, and the guess behind it."""
        tokens = np.array([self.said[-1], *self.guess], dtype=np.int64)
        return Part(tokens=tokens, past=self.past, pages=self.seat.pages, num_rows=len(tokens))


class GuessingLane:
    """The sequences that guess, advanced one step at a time."""

    def __init__(self, config: OpenVinoConfig, folder: Path, eos: int) -> None:
        self._graph = Graph(config, folder)
        has_own = graphs_that_guess(weights_bytes(folder)) > 1
        # For steps that guess.
        self._guessing = Graph(config, folder, self._graph) if has_own else self._graph
        self._eos = eos
        self._step_tokens = config.step_tokens
        self._keeps_prefixes = config.prefix_caching
        self._sequences: dict[int, _Sequence] = {}
        self._memories = Memories()
        costs = timed(self._guessing)
        self.times = StepTimes(plain=timed(self._graph, _PLAIN_TOKENS) if has_own else costs, guessing=costs)

    @property
    def is_idle(self) -> bool:
        """No sequence is left."""
        return not self._sequences

    @property
    def kv_used_fraction(self) -> float:
        """Share of the pages that sequences hold."""
        return self._graph.pages.used_fraction

    def add(self, number: int, prompt: Tokens, sampling: Sampling, tenant: str = "") -> bool:
        """Begin a sequence; False when there are no pages for it."""
        # What fills a step up is written behind the guesses.
        num_tokens = len(prompt) + sampling.max_tokens + MOST_GUESSED
        seat = self._graph.pages.take(prompt, num_tokens, tenant)
        if seat is None:
            return False
        self._sequences[number] = _Sequence(prompt, seat, sampling, tenant, self._memories.of(tenant))
        return True

    def drop(self, number: int) -> None:
        """Give a sequence up; the next step frees its pages."""
        if number in self._sequences:
            self._sequences[number].is_dropped = True

    def step(self) -> list[Piece]:
        """Advance every sequence; what each got. Raises RuntimeError when the engine fails."""
        pieces = [
            Piece(number, [], end="dropped") for number, one in self._sequences.items() if one.is_dropped
        ]
        for piece in pieces:
            self._end(piece.id)
        if not self._sequences:
            return pieces
        parts = self._parts()
        for (number, part), rows in zip(parts.items(), self._run(list(parts.values())), strict=True):
            one = self._sequences[number]
            one.past += len(part.tokens)
            if one.past < len(one.prompt):
                continue
            if not one.said and self._keeps_prefixes:
                self._graph.pages.keep(one.prompt, one.seat, one.tenant)
            pieces.append(self._decided(number, one, rows))
        return pieces

    def _parts(self) -> dict[int, Part]:
        """What every sequence has computed in this step; prompts share what deciding ones leave."""
        deciding = {number: one for number, one in self._sequences.items() if one.said}
        parts, others = {}, Others(len(deciding), float(len(deciding)))
        for number, one in deciding.items():
            others = Others(others.computed - 1, others.expected - 1, others.has_guesses)
            one.guess, expected = one.lookup.guess(self.times, others, one.room)
            parts[number] = one.deciding()
            others = Others(
                others.computed + 1 + len(one.guess),
                others.expected + expected,
                others.has_guesses or bool(one.guess),
            )
        left = max(1, self._step_tokens - others.computed)
        for number, one in self._sequences.items():
            if not one.said and left > 0:
                parts[number] = one.reading(left)
                left -= len(parts[number].tokens)
        return parts

    def _run(self, parts: list[Part]) -> list[Logits]:
        """One step on the graph for it; what it took is learnt."""
        num_tokens = sum(len(part.tokens) for part in parts)
        # Reading is another kind of step.
        if num_tokens != sum(part.num_rows for part in parts):
            return self._graph.run(parts)
        has_guesses = num_tokens > len(parts)
        if has_guesses:
            wanted = self.times.length(num_tokens)
            parts, num_tokens = [*parts[:-1], _filled(parts[-1], wanted - num_tokens)], wanted
        began_s = _CLOCK.monotonic_s()
        rows = (self._guessing if has_guesses else self._graph).run(parts)
        self._learn(num_tokens, _CLOCK.monotonic_s() - began_s, has_guesses=has_guesses)
        return rows

    def _learn(self, num_tokens: int, took_s: float, *, has_guesses: bool) -> None:
        times = self.times
        if has_guesses:
            guessing = times.guessing.seen(num_tokens, took_s, is_steady=num_tokens == times.last)
            self.times = msgspec.structs.replace(times, guessing=guessing, last=num_tokens)
        else:
            # One of other sequences is a change too, but a rare one.
            plain = times.plain.seen(num_tokens, took_s, is_steady=True)
            self.times = msgspec.structs.replace(times, plain=plain)

    def _decided(self, number: int, one: _Sequence, rows: Logits) -> Piece:
        """Follow the guess as far as the model says the same."""
        guess, one.guess = one.guess, []
        fresh: list[int] = []
        end, right = None, 0
        for at, row in enumerate(rows):
            token = pick(row, one.sampling, one.dice)
            fresh.append(token)
            end = self._ending(one, token, len(one.said) + len(fresh))
            if end is not None or at == len(guess) or token != guess[at]:
                break
            right += 1
        # What was computed behind a wrong guess is overwritten.
        one.past -= len(guess) - right
        one.said += fresh
        one.lookup.add(fresh)
        one.lookup.judge(len(guess), right)
        if end is not None:
            self._end(number)
        return Piece(number, fresh, end=end, drafted=len(guess), accepted=right)

    def _ending(self, one: _Sequence, token: int, num_said: int) -> str | None:
        sampling = one.sampling
        if token in sampling.stop_token_ids or (token == self._eos and not sampling.ignore_eos):
            return "stop"
        return "length" if num_said >= sampling.max_tokens else None

    def _end(self, number: int) -> None:
        one = self._sequences.pop(number)
        one.memory.learn(one.answer())
        self._graph.pages.give_back(one.seat)


def _filled(part: Part, num_tokens: int) -> Part:
    """With so many fillers behind it; the keys and values that are written for them are overwritten."""
    if not num_tokens:
        return part
    filled = np.concatenate((part.tokens, _FILLERS[:num_tokens]))
    return msgspec.structs.replace(part, tokens=filled, num_fillers=num_tokens)


def timed(graph: Graph, lengths: tuple[int, ...] = _TIMED_TOKENS) -> StepCosts:
    """What steps take on this machine now, by their tokens: the quickest of some rounds. Also the graph's warm-up."""
    changed_s = dict.fromkeys(lengths, math.inf)
    steady_s = dict.fromkeys(lengths, math.inf)
    for _ in range(_TIMED_ROUNDS):
        for num_tokens in lengths:
            changed_s[num_tokens] = min(changed_s[num_tokens], _step_s(graph, num_tokens))
            steady_s[num_tokens] = min(steady_s[num_tokens], _step_s(graph, num_tokens))
    # A longer step is not quicker, whatever one moment showed.
    return StepCosts(
        tokens=lengths,
        changed_s=tuple(itertools.accumulate(changed_s.values(), max)),
        steady_s=tuple(itertools.accumulate(steady_s.values(), max)),
    )


def _step_s(graph: Graph, num_tokens: int) -> float:
    tokens = np.zeros(num_tokens, dtype=np.int64)
    began_s = _CLOCK.monotonic_s()
    graph.run([Part(tokens=tokens, past=0, pages=(0,), num_rows=num_tokens)])
    return _CLOCK.monotonic_s() - began_s
