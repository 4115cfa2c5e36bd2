"""Plain sequences, those that guess ahead and those that do not, on a graph that is run by ourselves.

OpenVINO GenAI's own look-up guesses the same number of tokens for every sequence at every step, takes one token for a
match, and tells nobody how its guesses fare. Here each step guesses what pays on this machine, per sequence.

The engine prepares anew for a step of another length than the last one, which for a small model takes half as long as
the step itself. So steps that guess, and those that read prompts, run on a graph of their own where the weights are
small enough to be held once more, as soon as it is loaded, and steps are filled up to the last one's length where that
is quicker.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from outpace.engines.guess_trials import Trials
from outpace.engines.lookup import MOST_GUESSED, Lookup, Others, StepCosts, StepTimes
from outpace.engines.lookup_memory import MEMORY_RUNS, Memories, Memory
from outpace.engines.openvino_config import OpenVinoConfig, graphs_that_guess
from outpace.engines.openvino_draft import Draft
from outpace.engines.openvino_graph import Graph, Logits, Part
from outpace.engines.openvino_library import weights_bytes
from outpace.engines.openvino_pages import Seat, Tokens
from outpace.engines.openvino_wire import Piece, Sampling
from outpace.engines.sampling import pick
from outpace.engines.step_lengths import Length
from outpace.values.clock import SystemClock

# Steps of so many tokens are timed at the start.
_TIMED_TOKENS = (1, 2, 4, 8, 12, 16, MOST_GUESSED + 1)
_PLAIN_TOKENS = (1, 8, MOST_GUESSED + 1)
_TIMED_ROUNDS = 2
# Longer ones are those of many users: reckoned first, learnt when they come.
_LATER_TOKENS = (48, 96)
# A step may write so many tokens of a sequence behind its answer: the last one said, and a guess.
_AHEAD_TOKENS = MOST_GUESSED + 1
_BACK_TOKENS = 8 * _AHEAD_TOKENS
# Pages for that beside a context that is full.
SPARE_TOKENS = 8 * _AHEAD_TOKENS
# Enough to guess how an answer begins: one of the runs that are looked for.
_BEFORE_ANSWER = MEMORY_RUNS[1]
# Nobody waits for ever: after so many steps a prompt goes on before all others.
_MOST_PASSED_OVER = 8
_CLOCK = SystemClock()


class _Sequence:
    """One sequence and its seat."""

    def __init__(self, prompt: Tokens, sampling: Sampling, tenant: str, memory: Memory) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.tenant = tenant
        self.memory = memory
        self.lookup = Lookup(prompt.tolist(), memory)
        self.dice = np.random.default_rng(sampling.seed)
        # Without one it waits for pages.
        self.seat: Seat | None = None
        # What is read before the next token is decided, and tokens whose keys and values are in the pages.
        self.unread = prompt
        self.past = 0
        # Of the prompt: what never had to be read.
        self.cached = 0
        # Steps in a row in which other prompts were read instead.
        self.passed_over = 0
        self.said: list[int] = []
        self.guess: list[int] = []
        self.is_dropped = False

    def sit(self, seat: Seat) -> None:
        """Begin to read, or begin again."""
        self.seat, self.past = seat, seat.known_tokens
        if not self.said:
            self.cached = seat.known_tokens

    def stand_up(self) -> None:
        """Give the seat up: all but the last token said is read again later."""
        self.seat, self.past, self.guess = None, 0, []
        self.unread = np.concatenate((self.prompt, np.array(self.said[:-1], dtype=np.int64)))

    @property
    def most_tokens(self) -> int:
        """That are ever written of it."""
        return len(self.prompt) + self.sampling.max_tokens + _AHEAD_TOKENS

    @property
    def is_reading(self) -> bool:
        """Its next step decides nothing, or the first token."""
        return self.past < len(self.unread)

    @property
    def room(self) -> int:
        """Tokens that may be guessed: the last one is never a guess."""
        return self.sampling.max_tokens - len(self.said) - 1

    def reading(self, most: int) -> Part:
        """The next piece of the prompt."""
        tokens = self.unread[self.past : self.past + most]
        return Part(tokens=tokens, past=self.past, pages=self._pages)

    def answer(self) -> list[int]:
        """What was said, behind the last tokens of the prompt."""
        return [*self.prompt[-_BEFORE_ANSWER:].tolist(), *self.said]

    def deciding(self) -> Part:
        """The last token said, and the guess behind it."""
        tokens = np.array([self.said[-1], *self.guess], dtype=np.int64)
        return Part(tokens=tokens, past=self.past, pages=self._pages, num_rows=len(tokens))

    @property
    def _pages(self) -> tuple[int, ...]:
        assert self.seat is not None, "who waits for pages is in no step"
        return self.seat.pages


class GuessingLane:
    """The sequences of this process that may guess, advanced one step at a time in one batch."""

    def __init__(self, config: OpenVinoConfig, folder: Path, eos: int) -> None:
        self._graph = Graph(config, folder)
        self._draft = Draft(config, Path(config.draft_path)) if config.draft_path else None
        self._config, self._folder = config, folder
        # For steps that guess or read: the same until there is one of its own.
        self._guessing = self._graph
        self._eos = eos
        self._step_tokens = config.step_tokens
        self._keeps_prefixes = config.prefix_caching
        self._sequences: dict[int, _Sequence] = {}
        self._memories = Memories()
        self._trials = Trials()
        # Somebody in the last step would guess.
        self._is_willing = False
        costs = timed(self._graph)
        self.times = StepTimes(plain=costs, guessing=costs)
        # Of the last step on the graph for plain ones.
        self._plain = Length()

    @property
    def wants_own_graph(self) -> bool:
        """Steps that guess would be quicker on a graph of their own."""
        return graphs_that_guess(weights_bytes(self._folder)) > 1

    def give_own_graph(self, compiled: Any) -> None:
        """Let steps that guess or read run on it; between two steps. Takes some of them, for its times."""
        self._guessing = Graph(self._config, self._folder, self._graph, compiled)
        costs = timed(self._guessing)
        self.times = StepTimes(plain=timed(self._graph, _PLAIN_TOKENS), guessing=costs)
        # What was learnt of ways to step was another graph's.
        self._trials, self._plain = Trials(), Length()

    @property
    def is_idle(self) -> bool:
        """No sequence is left."""
        return not self._sequences

    @property
    def kv_used_fraction(self) -> float:
        """Share of the pages that sequences hold."""
        return self._graph.pages.used_fraction

    def add(self, number: int, prompt: Tokens, sampling: Sampling, tenant: str = "") -> bool:
        """Begin a sequence, which waits while there are no pages for it; False when there never will be."""
        one = _Sequence(prompt, sampling, tenant, self._memories.of(tenant))
        if one.most_tokens > self._graph.kv_tokens:
            return False
        self._sequences[number] = one
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
        self._make_room()
        began_s = _CLOCK.monotonic_s()
        parts = self._parts()
        rows_of = self._run(list(parts.values()))
        num_before = len(pieces)
        for (number, part), rows in zip(parts.items(), rows_of, strict=True):
            one = self._sequences[number]
            was_reading = one.is_reading
            one.past += len(part.tokens)
            if was_reading and not self._has_read(number, one):
                continue
            pieces.append(self._decided(number, one, rows))
        self._judge(parts, pieces[num_before:], _CLOCK.monotonic_s() - began_s)
        return pieces

    def _judge(self, parts: dict[int, Part], pieces: list[Piece], took_s: float) -> None:
        """Learn what guesses are worth; a step in which prompts are read says nothing."""
        num_said = sum(part.num_rows for part in parts.values())
        if len(pieces) < len(parts) or num_said < sum(len(part.tokens) for part in parts.values()):
            return
        if not self._is_willing:
            return
        got = sum(len(piece.tokens) for piece in pieces)
        without_s = self.times.of(len(parts), has_guesses=False)
        self._trials.took(len(parts), got / len(parts) * without_s / took_s)

    def _has_read(self, number: int, one: _Sequence) -> bool:
        """The last row that was read decides a token."""
        if self._draft is not None:
            self._draft.follow(number, one.unread[: one.past])
        # Who reads again knows its next token.
        if one.is_reading or one.said:
            return False
        if self._keeps_prefixes and one.seat is not None:
            self._graph.pages.keep(one.prompt, one.seat, one.tenant)
        return True

    def _make_room(self) -> None:
        """Pages for what every sequence writes in this step, the eldest first; the youngest ones wait for theirs."""
        for number, one in list(self._sequences.items()):
            if one.seat is None:
                self._seat(number, one)
                continue
            while one.seat is not None:
                grown = self._graph.pages.grow(one.seat, one.past + _AHEAD_TOKENS)
                if grown is not None:
                    one.seat = grown
                    break
                self._unseat_youngest()

    def _seat(self, number: int, one: _Sequence) -> None:
        # None before it waits: else a short one would overtake it for ever.
        if any(each.seat is None for each in itertools.takewhile(lambda each: each is not one, self._all())):
            return
        # Who was sent out comes back to some room, or the next step would send it out again.
        ahead = _BACK_TOKENS if one.said else _AHEAD_TOKENS
        num_tokens = min(len(one.unread) + ahead, one.most_tokens)
        seat = self._graph.pages.take(one.unread, num_tokens, one.tenant)
        if seat is None:
            return
        one.sit(seat)
        if self._draft is not None:
            self._draft.begin(number, one.unread, one.most_tokens, one.tenant)

    def _unseat_youngest(self) -> None:
        number, one = next((number, one) for number, one in reversed(self._sequences.items()) if one.seat)
        assert one.seat is not None
        self._graph.pages.give_back(one.seat)
        if self._draft is not None:
            self._draft.end(number)
        one.stand_up()

    def _all(self) -> Iterator[_Sequence]:
        return iter(self._sequences.values())

    def _parts(self) -> dict[int, Part]:
        """What every sequence has computed in this step. Prompts share what deciding ones leave."""
        seated = {number: one for number, one in self._sequences.items() if one.seat}
        deciding = {number: one for number, one in seated.items() if not one.is_reading}
        self._is_willing = any(one.sampling.speculates for one in deciding.values())
        if self._is_willing and self._trials.allows(len(deciding)):
            self._guess(deciding)
        parts = {number: one.deciding() for number, one in deciding.items()}
        left = max(1, self._step_tokens - sum(len(part.tokens) for part in parts.values()))
        for number, one in self._in_turn(seated):
            if left > 0:
                parts[number] = one.reading(left)
                left -= len(parts[number].tokens)
            one.passed_over = 0 if number in parts else one.passed_over + 1
        return parts

    def _in_turn(self, seated: dict[int, _Sequence]) -> list[tuple[int, _Sequence]]:
        """Prompts in the order in which they are read on: first those of the key that has fewest sequences here.

        A key that floods with long prompts makes others wait for the step, not for the prompt that it is in.
        """
        held = Counter(one.tenant for one in self._all())
        reading = [(number, one) for number, one in seated.items() if one.is_reading]
        return sorted(
            reading, key=lambda each: (each[1].passed_over < _MOST_PASSED_OVER, held[each[1].tenant])
        )

    def _guess(self, deciding: dict[int, _Sequence]) -> None:
        """Let every sequence that is in its answer guess."""
        others, drafted = Others(len(deciding), float(len(deciding))), {}
        for number, one in deciding.items():
            if not one.sampling.speculates:
                continue
            beside = Others(others.computed - 1, others.expected - 1, others.has_guesses, others.drafted_s)
            draft_step_s = self._draft.step_s if self._draft is not None and self._draft.has(number) else 0.0
            guess = one.lookup.guess(self.times, beside, one.room, draft_step_s)
            one.guess = guess.tokens
            if guess.drafted_s:
                drafted[number] = ([*one.prompt.tolist(), *one.said], len(guess.tokens))
            others = Others(
                beside.computed + 1 + len(guess.tokens),
                beside.expected + guess.expected,
                beside.has_guesses or bool(guess.tokens),
                max(beside.drafted_s, guess.drafted_s),
            )
        if self._draft is not None and drafted:
            for number, tokens in self._draft.guess(drafted).items():
                deciding[number].guess = tokens

    def _run(self, parts: list[Part]) -> list[Logits]:
        """One step on the graph for it; what it took is learnt."""
        num_tokens = sum(len(part.tokens) for part in parts)
        is_reading = num_tokens != sum(part.num_rows for part in parts)
        if not is_reading and num_tokens == len(parts):
            return self._run_plain(parts)
        if self._guessing is self._graph:
            self._plain = Length(num_tokens)
        if is_reading:
            # Another kind of step: nothing is learnt.
            self.times = msgspec.structs.replace(self.times, last=num_tokens)
            return self._guessing.run(parts)
        wanted, last = self.times.length(num_tokens), self.times.last
        self.times = msgspec.structs.replace(self.times, last=wanted)
        began_s = _CLOCK.monotonic_s()
        rows = self._guessing.run(parts, wanted - num_tokens)
        self._learn(wanted, _CLOCK.monotonic_s() - began_s, is_steady=wanted == last, has_guesses=True)
        return rows

    def _run_plain(self, parts: list[Part]) -> list[Logits]:
        last, self._plain = self._plain.num_tokens, self._plain.next(len(parts), self.times.plain)
        num_tokens = self._plain.num_tokens
        began_s = _CLOCK.monotonic_s()
        rows = self._graph.run(parts, num_tokens - len(parts))
        took_s = _CLOCK.monotonic_s() - began_s
        self._learn(num_tokens, took_s, is_steady=num_tokens == last, has_guesses=False)
        return rows

    def _learn(self, num_tokens: int, took_s: float, *, is_steady: bool, has_guesses: bool) -> None:
        times = self.times
        if has_guesses:
            guessing = times.guessing.seen(num_tokens, took_s, is_steady=is_steady)
            self.times = msgspec.structs.replace(times, guessing=guessing)
        else:
            plain = times.plain.seen(num_tokens, took_s, is_steady=is_steady)
            self.times = msgspec.structs.replace(times, plain=plain)

    def _decided(self, number: int, one: _Sequence, rows: Logits) -> Piece:
        """Follow the guess as far as the model says the same."""
        guess, one.guess = one.guess, []
        cached = 0 if one.said else one.cached
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
        return Piece(number, fresh, end=end, drafted=len(guess), accepted=right, cached=cached)

    def _ending(self, one: _Sequence, token: int, num_said: int) -> str | None:
        sampling = one.sampling
        if token in sampling.stop_token_ids or (token == self._eos and not sampling.ignore_eos):
            return "stop"
        return "length" if num_said >= sampling.max_tokens else None

    def _end(self, number: int) -> None:
        one = self._sequences.pop(number)
        if self._draft is not None:
            self._draft.end(number)
        one.memory.learn(one.answer())
        if one.seat is not None:
            self._graph.pages.give_back(one.seat)


def timed(graph: Graph, lengths: tuple[int, ...] = _TIMED_TOKENS) -> StepCosts:
    """What steps take on this machine now, by their tokens: the quickest of some rounds. Also the graph's warm-up."""
    changed_s = dict.fromkeys(lengths, math.inf)
    steady_s = dict.fromkeys(lengths, math.inf)
    for _ in range(_TIMED_ROUNDS):
        for num_tokens in lengths:
            changed_s[num_tokens] = min(changed_s[num_tokens], _step_s(graph, num_tokens))
            steady_s[num_tokens] = min(steady_s[num_tokens], _step_s(graph, num_tokens))
    # A longer step is not quicker, whatever one moment showed.
    measured = StepCosts(
        tokens=lengths,
        changed_s=tuple(itertools.accumulate(changed_s.values(), max)),
        steady_s=tuple(itertools.accumulate(steady_s.values(), max)),
    )
    return measured.reckoned(_LATER_TOKENS)


def _step_s(graph: Graph, num_tokens: int) -> float:
    tokens = np.zeros(num_tokens, dtype=np.int64)
    began_s = _CLOCK.monotonic_s()
    graph.run([Part(tokens=tokens, past=0, pages=(graph.spare_page,), num_rows=num_tokens)])
    return _CLOCK.monotonic_s() - began_s
