"""The graph that OpenVINO GenAI serves, with every logit in our hands: for those who judge what the engine says.

The library tells the chosen token's log-probability only. Its pipeline turns a model into one with paged attention
(OpenVINO's own pass) and compiles it with `openvino_library.properties`; the same is done here, and the graph is run as
the pipeline runs it: prompts in pieces of `step_tokens`, then one token of every sequence a step, keys and values in
pages of the chosen format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13
from openvino._offline_transformations import paged_attention_transformation

from outpace.engines.openvino_config import OpenVinoConfig
from outpace.engines.openvino_library import BLOCK_TOKENS, MODEL_FILE, properties

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]
# Rows of the last matrix product that are wanted: without it every position of a prompt would be multiplied.
_WANTED = "wanted_rows"
_CACHES = ("key_cache.", "value_cache.")


class Graph:
    """One compiled graph with its pages. Not for threads."""

    def __init__(self, config: OpenVinoConfig, folder: Path) -> None:
        self._step_tokens = config.step_tokens
        model = openvino.Core().read_model(folder / MODEL_FILE)
        paged_attention_transformation(model)
        _choose_rows(model)
        compiled = openvino.Core().compile_model(model, "CPU", properties(config))
        self._request = compiled.create_infer_request()
        self._pages = _Pages(config.kv_tokens // BLOCK_TOKENS)
        # Bytes of keys and values, as the compiled graph lays them out.
        self.kv_bytes = sum(self._give_pages(port) for port in compiled.inputs)

    @property
    def kv_tokens(self) -> int:
        """Tokens that the pages hold."""
        return self._pages.num_pages * BLOCK_TOKENS

    def follow(self, asked: Sequence[tuple[Tokens, Tokens]]) -> list[Logits]:
        """For each prompt and the tokens after it: the logits before each of these tokens.

        All sequences advance together. Raises ValueError when they need more pages than there are.
        """
        seats = self._pages.seats([len(prompt) + len(after) for prompt, after in asked])
        rows = [[self._read(prompt, seat)] for (prompt, _), seat in zip(asked, seats, strict=True)]
        for position in range(max(len(after) for _, after in asked) - 1):
            going = [at for at, (_, after) in enumerate(asked) if position + 1 < len(after)]
            parts = [
                (asked[at][1][position : position + 1], len(asked[at][0]) + position, seats[at])
                for at in going
            ]
            for at, row in zip(going, self._run(parts), strict=True):
                rows[at].append(row)
        return [np.stack(row) for row in rows]

    def _read(self, prompt: Tokens, seat: list[int]) -> Logits:
        """Run a prompt in pieces; the logits after its last token. Pages of a known beginning are not filled again."""
        known = self._pages.share(prompt, seat)
        row: Logits | None = None
        for start in range(known, len(prompt), self._step_tokens):
            (row,) = self._run([(prompt[start : start + self._step_tokens], start, seat)])
        assert row is not None, "at least the last token of a prompt is run"
        self._pages.keep(prompt, seat)
        return row

    def _run(self, parts: Sequence[tuple[Tokens, int, list[int]]]) -> Logits:
        """One step: for each sequence new tokens, how many are before them, and its pages; the last row of each."""
        ends = [past + len(tokens) for tokens, past, _ in parts]
        pages = [seat[: -(-end // BLOCK_TOKENS)] for end, (*_, seat) in zip(ends, parts, strict=True)]
        begins = np.cumsum([0, *(len(tokens) for tokens, *_ in parts)], dtype=np.int32)
        given = {
            "input_ids": np.concatenate([tokens for tokens, *_ in parts]),
            "position_ids": np.concatenate(
                [np.arange(past, past + len(tokens), dtype=np.int64) for tokens, past, _ in parts]
            ),
            "past_lens": np.array([past for _, past, _ in parts], dtype=np.int32),
            "subsequence_begins": begins,
            "block_indices": np.concatenate([np.array(own, dtype=np.int32) for own in pages]),
            "block_indices_begins": np.cumsum([0, *map(len, pages)], dtype=np.int32),
            "max_context_len": np.array(max(ends), dtype=np.int32),
            _WANTED: begins[1:].astype(np.int64) - 1,
        }
        for name, values in given.items():
            self._request.set_tensor(name, openvino.Tensor(values))
        self._request.infer()
        rows = self._request.get_tensor("logits").data
        return np.array(rows, dtype=np.float32).reshape(len(parts), -1)

    def _give_pages(self, port: Any) -> int:
        name = port.any_name
        if not name.startswith(_CACHES):
            return 0
        widths = [size.get_length() for size in list(port.partial_shape)[1:]]
        tensor = openvino.Tensor(port.element_type, openvino.Shape([self._pages.num_pages, *widths]))
        self._request.set_tensor(name, tensor)
        return int(tensor.byte_size)


class _Pages:
    """Which page holds what: sequences get pages of their own but for beginnings that were read before."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._known: dict[bytes, int] = {}
        self._free = list(range(num_pages))

    def seats(self, lengths: Sequence[int]) -> list[list[int]]:
        """Pages for sequences of so many tokens; when there are not enough, all that was known is forgotten."""
        wanted = [-(-length // BLOCK_TOKENS) for length in lengths]
        if sum(wanted) > self.num_pages:
            raise ValueError(f"{sum(lengths)} tokens are more than {self.num_pages * BLOCK_TOKENS}")
        self._free = [page for page in range(self.num_pages) if page not in set(self._known.values())]
        if sum(wanted) > len(self._free):
            self._known.clear()
            self._free = list(range(self.num_pages))
        return [[self._free.pop() for _ in range(count)] for count in wanted]

    def share(self, prompt: Tokens, seat: list[int]) -> int:
        """Take over the pages of the longest known beginning; its length. The last token is always left to run."""
        for page in range((len(prompt) - 1) // BLOCK_TOKENS):
            known = self._known.get(prompt[: (page + 1) * BLOCK_TOKENS].tobytes())
            if known is None:
                return page * BLOCK_TOKENS
            seat[page] = known
        return (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS

    def keep(self, prompt: Tokens, seat: list[int]) -> None:
        """Know the full pages of a prompt that was read."""
        for page in range(len(prompt) // BLOCK_TOKENS):
            self._known.setdefault(prompt[: (page + 1) * BLOCK_TOKENS].tobytes(), seat[page])


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
