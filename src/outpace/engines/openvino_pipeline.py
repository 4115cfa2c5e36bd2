"""All sequences of an OpenVINO process: plain ones on a graph of ours, where they may guess, others in the library."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from outpace.engines.openvino_config import OpenVinoConfig, kept_tokens
from outpace.engines.openvino_graph import compile_graph
from outpace.engines.openvino_guessing import SPARE_TOKENS, GuessingLane
from outpace.engines.openvino_later import Later
from outpace.engines.openvino_library import Lane, end_of_text
from outpace.engines.openvino_pages import Tokens
from outpace.engines.openvino_wire import Piece, Sampling

# What is loaded later.
_GRAPH, _LIBRARY = "graph", "library"
# So long a step waits for the library when nothing else is to be done.
_LOOK_AGAIN_S = 0.02


class LaterFailed(RuntimeError):
    """What was to be loaded later cannot be."""


class Pipeline:
    """The sequences in the engine, advanced one step at a time.

    With speculation the model is loaded twice: the library's pipeline has grammars, penalties and log-probabilities.
    What needs none of these is stepped by ourselves, whether it guesses or not: two ways at once would be two steps for
    everybody, and a prefix that one knows would be read again by the other. Ours comes first, and the library's when
    somebody needs it or nobody asks (`load_more`).
    """

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._library: Lane | None = None
        self._guessing: GuessingLane | None = None
        self._later: Later | None = None
        # Sequences for the library, until it is there, and the ends of those that gave up meanwhile.
        self._waiting: dict[int, tuple[Tokens, Sampling]] = {}
        self._given_up: list[Piece] = []
        if config.speculation == "none":
            self._library = Lane(config, folder)
            return
        guessing = msgspec.structs.replace(config, kv_tokens=kept_tokens(config) + SPARE_TOKENS)
        self._guessing = GuessingLane(guessing, folder, end_of_text(folder))
        loads: dict[str, Callable[[], Any]] = {_LIBRARY: partial(Lane, config, folder)}
        if self._guessing.wants_own_graph:
            loads = {_GRAPH: partial(compile_graph, guessing, folder), **loads}
        self._later = Later(loads)
        if config.loads_at_once:
            self._later.wait()
            self.load_more()

    @property
    def is_whole(self) -> bool:
        """Nothing is left to load."""
        return self._later is None

    def load_more(self, first: str = "") -> None:
        """Begin with what is left to load, or take over what is there. Raises LaterFailed."""
        if self._later is None or self._guessing is None:
            return
        self._later.begin(first)
        try:
            graph, library = self._later.take(_GRAPH), self._later.take(_LIBRARY)
        except RuntimeError as error:
            raise LaterFailed(str(error)) from error
        if graph is not None:
            self._guessing.give_own_graph(graph)
        self._library = library or self._library
        if self._library is not None and self._later.is_done:
            self._later = None

    @property
    def is_idle(self) -> bool:
        """Nothing is left to compute or to clean up."""
        if self._waiting or self._given_up:
            return False
        return all(lane.is_idle for lane in (self._library, self._guessing) if lane is not None)

    @property
    def kv_used_fraction(self) -> float:
        """Share of the key and value memory that the last step used; of two the fuller one's."""
        return max(lane.kv_used_fraction for lane in (self._library, self._guessing) if lane is not None)

    def add(self, sequence: int, prompt: bytes, sampling: Sampling, tenant: str = "") -> None:
        """Begin a sequence. Raises RuntimeError for what the library refuses."""
        tokens = np.frombuffer(prompt, dtype=np.int64)
        guessing = self._guessing if sampling.is_plain else None
        if guessing is not None and guessing.add(sequence, tokens, sampling, tenant):
            return
        if self._library is None:
            self._waiting[sequence] = tokens, sampling
        else:
            self._library.add(sequence, tokens, sampling)

    def drop(self, sequence: int) -> None:
        """Give a sequence up; the next step frees its memory."""
        if self._library is not None:
            self._library.drop(sequence)
        if self._guessing is not None:
            self._guessing.drop(sequence)
        if self._waiting.pop(sequence, None) is not None:
            self._given_up.append(Piece(sequence, [], end="dropped"))

    def step(self) -> list[Piece]:
        """Advance every sequence; what each got. Raises RuntimeError."""
        pieces, self._given_up = self._given_up, []
        if self._waiting:
            pieces += self._let_in()
        if self._library is not None and not self._library.is_idle:
            pieces += self._library.step()
        if self._guessing is not None and not self._guessing.is_idle:
            pieces += self._guessing.step()
        return pieces

    def _let_in(self) -> list[Piece]:
        """Who waits for the library begins there, when it is there; ends of those whom it refuses."""
        self.load_more(first=_LIBRARY)
        if self._library is None:
            if self._later is not None and (self._guessing is None or self._guessing.is_idle):
                self._later.wait(_LOOK_AGAIN_S)
            return []
        refused = []
        for sequence, (tokens, sampling) in self._waiting.items():
            try:
                self._library.add(sequence, tokens, sampling)
            except RuntimeError as error:
                refused.append(refusal(sequence, error))
        self._waiting.clear()
        return refused


def refusal(sequence: int, error: RuntimeError) -> Piece:
    """The end of a sequence that the library does not take."""
    return Piece(sequence, [], end=f"the engine refused it: {error}")
