"""The graph that OpenVINO GenAI serves, with every logit in our hands: to judge what it says, and to guess ahead.

The library tells the chosen token's log-probability only. Its pipeline turns a model into one with paged attention
(OpenVINO's own pass) and compiles it with `openvino_library.properties`; the same is done here, and the graph is run as
the pipeline runs it: prompts in pieces of `step_tokens`, then one token of every sequence a step, keys and values in
pages of the chosen format.
"""

import itertools
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
# Inputs of 64 bits; the others have 32.
_WIDE = frozenset({"input_ids", "position_ids", _WANTED})


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one sequence has computed in a step: new `tokens` behind `past` ones, and the last rows that are wanted."""

    tokens: Tokens
    past: int
    pages: Sequence[int]
    num_rows: int = 1


class _Inputs:
    """What a step is given, in memory that the engine reads: a tensor anew each time takes longer than its numbers."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._arrays: dict[str, NDArray[np.int64 | np.int32]] = {}

    def put(self, name: str, values: Sequence[int] | Tokens | int) -> None:
        """These for the next step."""
        size = () if isinstance(values, int) else (len(values),)
        array = self._arrays.get(name)
        if array is None or array.shape != size:
            array = np.empty(size, dtype=np.int64 if name in _WIDE else np.int32)
            self._arrays[name] = array
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        array[...] = values


def compile_graph(config: OpenVinoConfig, folder: Path) -> Any:
    """What a `Graph` runs; a thread may make it beside another graph's steps. Raises RuntimeError."""
    model = openvino.Core().read_model(folder / MODEL_FILE)
    paged_attention_transformation(model)
    _choose_rows(model)
    return openvino.Core().compile_model(model, "CPU", properties(config))


class Graph:
    """One compiled graph with its pages, or with those of `beside`, another graph of this model. Not for threads."""

    def __init__(
        self, config: OpenVinoConfig, folder: Path, beside: "Graph | None" = None, compiled: Any = None
    ) -> None:
        self._step_tokens = config.step_tokens
        compiled = compiled or compile_graph(config, folder)
        self._request = compiled.create_infer_request()
        self._inputs = _Inputs(self._request)
        self.pages: Pages = beside.pages if beside else Pages(config.kv_tokens // BLOCK_TOKENS, BLOCK_TOKENS)
        # Fillers write to a page beyond those of sequences, all the same.
        self._filler = Part(tokens=np.zeros(1, dtype=np.int64), past=0, pages=(self.spare_page,), num_rows=0)
        # Bytes of keys and values of sequences, as the compiled graph lays them out.
        self.kv_bytes = sum(self._give_pages(port, beside) for port in compiled.inputs)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pages hold."""
        return self.pages.num_pages * BLOCK_TOKENS

    @property
    def spare_page(self) -> int:
        """The page beyond those of sequences: what is written there is nobody's."""
        return self.pages.num_pages

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

    def run(self, asked: Sequence[Part], num_fillers: int = 0) -> list[Logits]:
        """One step: for each part the logits behind its last `num_rows` tokens, (rows, vocabulary).

        Fillers are tokens of nobody, there for the step's length only. Rows are the engine's memory: the next step
        overwrites them. Raises RuntimeError when the engine fails.
        """
        parts = [*asked, *(self._filler for _ in range(num_fillers))]
        ends = [part.past + len(part.tokens) for part in parts]
        pages = [part.pages[: -(-end // BLOCK_TOKENS)] for end, part in zip(ends, parts, strict=True)]
        begins = [0, *itertools.accumulate(len(part.tokens) for part in parts)]
        put = self._inputs.put
        put("input_ids", np.concatenate([part.tokens for part in parts]))
        put(
            "position_ids",
            [at for part, end in zip(parts, ends, strict=True) for at in range(part.past, end)],
        )
        put("past_lens", [part.past for part in parts])
        put("subsequence_begins", begins)
        put("block_indices", [*itertools.chain.from_iterable(pages)])
        put("block_indices_begins", [0, *itertools.accumulate(map(len, pages))])
        put("max_context_len", max(ends))
        put(
            _WANTED,
            [
                at
                for part, end in zip(parts, begins[1:], strict=True)
                for at in range(end - part.num_rows, end)
            ],
        )
        self._request.infer()
        # At 32 users a copy would be six megabytes a step.
        rows = np.asarray(self._request.get_tensor("logits").data, dtype=np.float32)
        rows = rows.reshape(-1, rows.shape[-1])
        ways = [0, *itertools.accumulate(part.num_rows for part in asked)]
        return [rows[start:end] for start, end in itertools.pairwise(ways)]

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
        num_pages = self.pages.num_pages
        tensor = openvino.Tensor(port.element_type, openvino.Shape([num_pages + 1, *widths]))
        self._request.set_tensor(name, tensor)
        return int(tensor.byte_size) * num_pages // (num_pages + 1)


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
