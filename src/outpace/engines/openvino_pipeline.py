"""All sequences of an OpenVINO process: plain ones on a graph of ours, where they may guess, others in the library."""

from pathlib import Path

import msgspec
import numpy as np

from outpace.engines.openvino_config import OpenVinoConfig, kept_tokens
from outpace.engines.openvino_guessing import SPARE_TOKENS, GuessingLane
from outpace.engines.openvino_library import Lane
from outpace.engines.openvino_wire import Piece, Sampling


class Pipeline:
    """The sequences in the engine, advanced one step at a time.

    With speculation the model is loaded twice: the library's pipeline has grammars, penalties and log-probabilities.
    What needs none of these is stepped by ourselves, whether it guesses or not: two ways at once would be two steps for
    everybody, and a prefix that one knows would be read again by the other.
    """

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._plain = Lane(config, folder)
        self._guessing: GuessingLane | None = None
        if config.speculation != "none":
            guessing = msgspec.structs.replace(config, kv_tokens=kept_tokens(config) + SPARE_TOKENS)
            self._guessing = GuessingLane(guessing, folder, self._plain.eos)

    @property
    def is_idle(self) -> bool:
        """Nothing is left to compute or to clean up."""
        return self._plain.is_idle and (self._guessing is None or self._guessing.is_idle)

    @property
    def kv_used_fraction(self) -> float:
        """Share of the key and value memory that the last step used; of two the fuller one's."""
        used = self._plain.kv_used_fraction
        return used if self._guessing is None else max(used, self._guessing.kv_used_fraction)

    def add(self, sequence: int, prompt: bytes, sampling: Sampling, tenant: str = "") -> None:
        """Begin a sequence. Raises RuntimeError for what the library refuses."""
        tokens = np.frombuffer(prompt, dtype=np.int64)
        guessing = self._guessing if sampling.is_plain else None
        if guessing is None or not guessing.add(sequence, tokens, sampling, tenant):
            self._plain.add(sequence, tokens, sampling)

    def drop(self, sequence: int) -> None:
        """Give a sequence up; the next step frees its memory."""
        self._plain.drop(sequence)
        if self._guessing is not None:
            self._guessing.drop(sequence)

    def step(self) -> list[Piece]:
        """Advance every sequence; what each got. Raises RuntimeError."""
        pieces = [] if self._plain.is_idle else self._plain.step()
        if self._guessing is not None and not self._guessing.is_idle:
            pieces += self._guessing.step()
        return pieces
