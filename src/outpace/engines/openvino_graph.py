"""The graph that OpenVINO GenAI serves, with every logit in our hands: to judge what it says, and to guess ahead.

The library tells the chosen token's log-probability only. Its pipeline turns a model into one with paged attention
(OpenVINO's own pass) and compiles it with `openvino_library.properties`; the same is done here, and the graph is run as
the pipeline runs it: prompts in pieces of `step_tokens`, then one token of every sequence a step, keys and values in
pages of the chosen format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13
from openvino._offline_transformations import paged_attention_transformation

from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_library import BLOCK_TOKENS, MODEL_FILE, properties
from outpace.engines.openvino_pages import Pages, Seat, Tokens

Logits = NDArray[np.float32]
# Rows of the last matrix product that are wanted: without it every position of a prompt would be multiplied.
_WANTED = "wanted_rows"
_CACHES = ("key_cache.", "value_cache.")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one sequence has computed in a step: new `tokens` behind `past` ones, and the last rows that are wanted.

    The last `num_fillers` tokens are there for the step's length only; no row of them is wanted.
    """

    tokens: Tokens
    past: int
    pages: Sequence[int]
    num_rows: int = 1
    num_fillers: int = 0


class Graph:
    """One compiled graph with its pages, or with those of `beside`, another graph of this model. Not for threads."""

    def __init__(self, config: OpenVinoConfig, folder: Path, beside: "Graph | None" = None) -> None:
        self._step_tokens = config.step_tokens
        model = openvino.Core().read_model(folder / MODEL_FILE)
        paged_attention_transformation(model)
        _choose_rows(model)
        compiled = openvino.Core().compile_model(model, "CPU", properties(config))
        self._request = compiled.create_infer_request()
        self.pages: Pages = beside.pages if beside else Pages(config.kv_tokens // BLOCK_TOKENS, BLOCK_TOKENS)
        # Bytes of keys and values, as the compiled graph lays them out.
        self.kv_bytes = sum(self._give_pages(port, beside) for port in compiled.inputs)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pages hold."""
        return self.pages.num_pages * BLOCK_TOKENS

    def follow(self, asked: Sequence[tuple[Tokens, Tokens]]) -> list[Logits]:
        """For each prompt and the tokens after it: the logits before each of these tokens.

        All sequences advance together. Raises ValueError when they need more pages than there are.
        """
        seats: list[Seat] = []
        try:
            rows = []
            for prompt, after in asked:
                seat = self.pages.take(prompt, len(prompt) + len(after))
                if seat is None:
                    tokens = sum(len(prompt) + len(after) for prompt, after in asked)
                    raise ValueError(f"{tokens} tokens are more than {self.kv_tokens}")
                seats.append(seat)
                rows.append([self._read(prompt, seat)])
            self._advance(asked, seats, rows)
        finally:
            for seat in seats:
                self.pages.give_back(seat)
        return [np.stack(row) for row in rows]

    def run(self, parts: Sequence[Part]) -> list[Logits]:
        """One step: for each part the logits behind the last `num_rows` tokens that are no fillers, (rows, vocabulary).

        Rows are the engine's memory: the next step overwrites them. Raises RuntimeError when the engine fails.
        """
        ends = [part.past + len(part.tokens) for part in parts]
        pages = [part.pages[: -(-end // BLOCK_TOKENS)] for end, part in zip(ends, parts, strict=True)]
        begins = np.cumsum([0, *(len(part.tokens) for part in parts)], dtype=np.int32)
        given = {
            "input_ids": np.concatenate([part.tokens for part in parts]),
            "position_ids": np.concatenate(
                [np.arange(part.past, end, dtype=np.int64) for end, part in zip(ends, parts, strict=True)]
            ),
            "past_lens": np.array([part.past for part in parts], dtype=np.int32),
            "subsequence_begins": begins,
            "block_indices": np.concatenate([np.array(own, dtype=np.int32) for own in pages]),
            "block_indices_begins": np.cumsum([0, *map(len, pages)], dtype=np.int32),
            "max_context_len": np.array(max(ends), dtype=np.int32),
            _WANTED: np.concatenate(
                [
                    np.arange(end - part.num_rows, end, dtype=np.int64) - part.num_fillers
                    for end, part in zip(begins[1:], parts, strict=True)
                ]
            ),
        }
        for name, values in given.items():
            self._request.set_tensor(name, openvino.Tensor(values))
        self._request.infer()
        # At 32 users a copy would be six megabytes a step.
        rows = np.asarray(self._request.get_tensor("logits").data, dtype=np.float32)
        ways = np.cumsum([part.num_rows for part in parts])[:-1]
        return list(np.split(rows.reshape(-1, rows.shape[-1]), ways))

    def _read(self, prompt: Tokens, seat: Seat) -> Logits:
        """Run a prompt in pieces; the logits after its last token. Pages of a known beginning are not filled again."""
        row: Logits | None = None
        for start in range(seat.known_tokens, len(prompt), self._step_tokens):
            piece = prompt[start : start + self._step_tokens]
            ((row,),) = self.run([Part(tokens=piece, past=start, pages=seat.pages)])
        assert row is not None, "at least the last token of a prompt is run"
        self.pages.keep(prompt, seat)
        return row.copy()

    def _advance(
        self, asked: Sequence[tuple[Tokens, Tokens]], seats: Sequence[Seat], rows: list[list[Logits]]
    ) -> None:
        for position in range(max(len(after) for _, after in asked) - 1):
            going = [at for at, (_, after) in enumerate(asked) if position + 1 < len(after)]
            parts = [
                Part(
                    tokens=asked[at][1][position : position + 1],
                    past=len(asked[at][0]) + position,
                    pages=seats[at].pages,
                )
                for at in going
            ]
            for at, (row,) in zip(going, self.run(parts), strict=True):
                rows[at].append(row.copy())

    def _give_pages(self, port: Any, beside: "Graph | None") -> int:
        name = port.any_name
        if not name.startswith(_CACHES):
            return 0
        if beside is not None:
            self._request.set_tensor(name, beside._request.get_tensor(name))
            return 0
        widths = [size.get_length() for size in list(port.partial_shape)[1:]]
        tensor = openvino.Tensor(port.element_type, openvino.Shape([self.pages.num_pages, *widths]))
        self._request.set_tensor(name, tensor)
        return int(tensor.byte_size)


def _choose_rows(model: Any) -> None:
    """Put a choice of rows before the last matrix product."""
    product = model.output("logits").get_node().input_value(0).get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    wanted = opset13.parameter([-1], np.int64, name=_WANTED)
    wanted.output(0).set_names({_WANTED})
    rows = opset13.gather(product.input_value(0), wanted, opset13.constant(np.int64(0)))
    product.input(0).replace_source_output(rows.output(0))
    model.add_parameters([wanted])
    model.validate_nodes_and_infer_types()
