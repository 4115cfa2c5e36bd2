"""OpenVINO for a gate: `python -m outpace.lab.openvino_judged --config JSON`, orders on the socket that is stdin.

A process of its own, since the library holds the interpreter during a step. Answers come from the pipeline that serves,
probabilities from the same graph (`engines/openvino_graph.py`). Before the first order the two are held against each
other: where they differ, nothing is judged.
"""

import ctypes
import select
import signal
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from outpace.engines import child
from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_graph import Graph, Logits
from outpace.engines.openvino_library import Tokenizer
from outpace.engines.openvino_pages import Tokens
from outpace.engines.openvino_pipeline import Pipeline
from outpace.engines.openvino_weights import openvino_folder
from outpace.engines.openvino_wire import Piece, Sampling
from outpace.lab import openvino_talk as talk
from outpace.precision.canary import canary_items
from outpace.precision.items import Item
from outpace.values.errors import OutpaceError

_PR_SET_PDEATHSIG = 1
_RECEIVED_BYTES = 1 << 20
# Orders of one wave come within this; what comes together is computed together.
_GATHER_S = 0.005
_LISTED = 128
# Greedy tokens of each prompt on which pipeline and graph are compared.
_COMPARED_TOKENS = 8
# What is seen is 0.0003; a batch of another shape moves BF16 products by some hundredths.
_TOLERANCE_NATS = 0.1


def main() -> None:
    """Load, compare, tell so, answer until the other end closes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    config = child.read_config(OpenVinoConfig)
    scorer = socket.socket(fileno=0)
    with tempfile.TemporaryDirectory(prefix="outpace-openvino-") as scratch:
        try:
            judged = Judged(config, openvino_folder(config, Path(scratch)))
            scorer.sendall(talk.framed(judged.compared()))
            serve(judged, scorer)
        except OutpaceError as error:
            child.fail(error.code or "load_failed", error.message)
        except (RuntimeError, ValueError) as error:
            child.fail("engine_failed", f"OpenVINO could not be judged: {' '.join(str(error).split())[:300]}")


class Judged:
    """One artifact at one KV format: the pipeline that serves it, and its graph."""

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._config = config
        self._tokenizer = Tokenizer(folder)
        self._pipeline = Pipeline(config, folder)
        self._graph = Graph(config, folder)
        self._prompts: dict[str, Tokens] = {}
        self._num_sequences = 0

    def answer(self, orders: Sequence[talk.Order]) -> Iterable[talk.Report]:
        """The reports of these orders; what advances together does."""
        fitting = []
        for order in orders:
            num_tokens = len(self._prompt(order.item)) + _room(order)
            if num_tokens > self._config.context_tokens:
                yield talk.TooLong(order.id, num_tokens)
            elif isinstance(order, talk.Read):
                yield talk.Tokens(order.id, self._prompt(order.item).tolist())
            else:
                fitting.append(order)
        yield from self._follow([order for order in fitting if isinstance(order, talk.Follow)])
        yield from self._say([order for order in fitting if isinstance(order, talk.Say)])

    def compared(self) -> talk.Ready:
        """Hold the graph against the pipeline. Raises RuntimeError when they are not the same model."""
        items = canary_items()[:2]
        said = self._generate([(item, _COMPARED_TOKENS) for item in items])
        asked = [(self._prompt(item), np.array(own[0])) for item, own in zip(items, said, strict=True)]
        seen = self._graph.follow(asked)
        differences = [
            abs(float(row[token]) - logprob)
            for rows, (tokens, logprobs) in zip(map(_log_softmax, seen), said, strict=True)
            for row, token, logprob in zip(rows, tokens, logprobs, strict=True)
        ]
        if max(differences) > _TOLERANCE_NATS:
            raise RuntimeError(f"its graph and its pipeline differ by {max(differences):.2f} nats")
        return talk.Ready(max(differences), self._graph.kv_bytes / self._graph.kv_tokens)

    def _follow(self, orders: Sequence[talk.Follow]) -> Iterable[talk.Followed]:
        for batch in self._batches(orders):
            asked = [(self._prompt(order.item), np.array(order.tokens, dtype=np.int64)) for order in batch]
            for order, rows in zip(batch, self._graph.follow(asked), strict=True):
                yield talk.Followed(order.id, [_most_likely(row) for row in _log_softmax(rows)])

    def _batches(self, orders: Sequence[talk.Follow]) -> Iterable[list[talk.Follow]]:
        """As many together as the engine serves together, and as the pages hold."""
        batch: list[talk.Follow] = []
        for order in orders:
            tokens = sum(len(self._prompt(one.item)) + 2 * len(one.tokens) for one in [*batch, order])
            if batch and (len(batch) == self._config.parallel or tokens > self._graph.kv_tokens // 2):
                yield batch
                batch = []
            batch.append(order)
        if batch:
            yield batch

    def _say(self, orders: Sequence[talk.Say]) -> Iterable[talk.Said]:
        said = self._generate([(order.item, order.max_tokens) for order in orders])
        for order, (tokens, _) in zip(orders, said, strict=True):
            text = b"".join(self._tokenizer.pieces[token] for token in tokens).decode(errors="replace")
            yield talk.Said(order.id, tokens, text)

    def _generate(self, asked: Sequence[tuple[Item, int]]) -> list[tuple[list[int], list[float]]]:
        """Greedy tokens with their log-probabilities, out of the pipeline that serves. Raises RuntimeError."""
        told: dict[int, tuple[list[int], list[float]]] = {}
        for item, max_tokens in asked:
            self._num_sequences += 1
            told[self._num_sequences] = ([], [])
            schema = msgspec.json.encode(item.schema).decode() if item.schema else None
            sampling = Sampling(
                max_tokens=max_tokens, seed=0, temperature=0.0, wants_logprobs=True, json_schema=schema
            )
            self._pipeline.add(self._num_sequences, self._prompt(item).tobytes(), sampling)
        while not self._pipeline.is_idle:
            for piece in self._pipeline.step():
                _note(told[piece.id], piece)
        return list(told.values())

    def _prompt(self, item: Item) -> Tokens:
        """As the serving front makes it: the model's own template, then its tokenizer."""
        if item.id not in self._prompts:
            text = self._tokenizer.rendered([msgspec.to_builtins(turn) for turn in item.messages], {})
            self._prompts[item.id] = self._tokenizer.encode(text, adds_first=False)
        return self._prompts[item.id]


def serve(judged: Judged, scorer: socket.socket) -> None:
    """Until the other end closes."""
    held = bytearray()
    while received := scorer.recv(_RECEIVED_BYTES):
        held += received
        while select.select([scorer], [], [], _GATHER_S)[0]:
            more = scorer.recv(_RECEIVED_BYTES)
            if not more:
                return
            held += more
        for report in judged.answer(talk.unframed(held, talk.ORDERS)):
            scorer.sendall(talk.framed(report))


def _room(order: talk.Order) -> int:
    """Tokens behind the prompt."""
    if isinstance(order, talk.Follow):
        return len(order.tokens)
    return order.max_tokens if isinstance(order, talk.Say) else 0


def _note(told: tuple[list[int], list[float]], piece: Piece) -> None:
    told[0].extend(piece.tokens)
    told[1].extend(piece.logprobs)
    if piece.end not in (None, "stop", "length"):
        raise RuntimeError(piece.end)


def _log_softmax(rows: Logits) -> "np.ndarray[Any, np.dtype[np.float64]]":
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def _most_likely(row: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[int, float]:
    count = min(_LISTED, len(row))
    tokens = np.argpartition(row, -count)[-count:]
    return {int(token): float(row[token]) for token in tokens}


if __name__ == "__main__":
    main()
