"""Facts out of a GGUF file's header, read as if an enemy wrote it: no length is believed unchecked.

Layout: ggml's gguf.md (versions 2 and 3, little endian). Block sizes: ggml-common.h.
"""

import hashlib
import struct
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import msgspec

from outpace.values.errors import WeightsInvalid

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Far above real files (a vocabulary of 256k tokens needs about 10 MB), far below what hurts.
_MAX_HEADER_BYTES = 128 * 1024 * 1024
_MAX_PAIRS = 10_000
_MAX_TENSORS = 100_000
_MAX_ITEMS = 4_000_000
# Texts of all arrays together; the largest vocabularies have 800,000 tokens and merges.
_MAX_TEXTS = 2_000_000
_MAX_KEY_BYTES = 65_535
_MAX_TEXT_BYTES = 4 * 1024 * 1024
_MAX_DIMENSIONS = 4
_MAX_LAYERS = 10_000
_READ_BYTES = 1024 * 1024

# Value types by number: struct code of the scalars, then text and array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4

# Tensor types: name, weights per block, bytes per block.
_TENSOR_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}
# `general.file_type` of llama.h, by the names that users know.
_FILE_TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    7: "q8_0",
    8: "q5_0",
    9: "q5_1",
    10: "q2_k",
    11: "q3_k_s",
    12: "q3_k_m",
    13: "q3_k_l",
    14: "q4_k_s",
    15: "q4_k_m",
    16: "q5_k_s",
    17: "q5_k_m",
    18: "q6_k",
    19: "iq2_xxs",
    20: "iq2_xs",
    21: "q2_k_s",
    22: "iq3_xs",
    23: "iq3_xxs",
    24: "iq1_s",
    25: "iq4_nl",
    26: "iq3_s",
    27: "iq3_m",
    28: "iq2_s",
    29: "iq2_m",
    30: "iq4_xs",
    31: "iq1_m",
    32: "bf16",
    36: "tq1_0",
    37: "tq2_0",
    38: "mxfp4",
}


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF says about its model; None or 0 where it says nothing."""

    version: int
    architecture: str
    name: str | None
    licence: str | None
    size_bytes: int
    header_bytes: int
    # Sum of all tensor elements.
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context_tokens: int
    vocabulary: int
    experts: int
    experts_per_token: int
    # Format of the file as llama.cpp names it; None when it is not a known one.
    precision: str | None
    # Number of tensors by type.
    tensor_types: Mapping[str, int]
    has_output_tensor: bool
    chat_template: str | None
    # Texts of tokens of type CONTROL and USER_DEFINED, in the order of their ids.
    control_texts: tuple[str, ...] = ()
    user_defined_texts: tuple[str, ...] = ()
    bos_token: int | None = None
    eos_token: int | None = None
    # Of the list of tokens as it lies in the file: equal for models with the same vocabulary. Empty: no list.
    tokens_sha256: str = ""

    @property
    def mentions_tools(self) -> bool:
        """The chat template has a place for tools."""
        return "tools" in (self.chat_template or "")


def read(path: Path) -> GgufFacts:
    """Facts of the GGUF at `path`. Raises WeightsInvalid naming what is wrong with it."""
    try:
        with path.open("rb") as file:
            return _Header(file, path.stat().st_size).facts()
    except _Wrong as wrong:
        raise WeightsInvalid(f"{path.name} is not a sound GGUF file: {wrong}") from wrong
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise WeightsInvalid(f"{str(path)[:300]!r} cannot be read: {reason}") from error


class _Wrong(Exception):
    """What is wrong with the file."""


class _Array:
    """An array that was only walked: its type and length, and where its items lie in the header."""

    def __init__(self, kind: int, starts: Sequence[int], count: int) -> None:
        self.kind = kind
        # Of texts the start of each, of numbers the start of the first.
        self.starts = starts
        self.count = count


class _Header:
    """One pass over the header; bytes are read from the file as far as needed."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._end = min(size_bytes, _MAX_HEADER_BYTES)
        self._raw = bytearray()
        self._at = 0
        self._num_texts = 0

    def facts(self) -> GgufFacts:
        """Parse everything. Raises _Wrong."""
        if self._take(4) != _MAGIC:
            raise _Wrong("it does not begin with GGUF")
        version = self._number("I")
        if version not in _VERSIONS:
            raise _Wrong(f"version {version} is not known; 2 and 3 are")
        num_tensors, num_pairs = (
            self._count("Q", _MAX_TENSORS, "tensors"),
            self._count("Q", _MAX_PAIRS, "keys"),
        )
        pairs = self._pairs(num_pairs)
        tensors = [self._tensor() for _ in range(num_tensors)]
        self._check_tensors(tensors, pairs)
        return self._describe(version, pairs, tensors)

    # -- bytes ----------------------------------------------------------------------------------

    def _need(self, num_bytes: int) -> None:
        """Make `num_bytes` from here on readable."""
        wanted = self._at + num_bytes
        if wanted > self._end:
            cut = "ends inside its header" if self._end == self._size_bytes else "has a header without end"
            raise _Wrong(f"it {cut}: {wanted:,} bytes are claimed, {self._end:,} may be read")
        missing = wanted - len(self._raw)
        if missing > 0:
            self._raw += self._file.read(min(max(missing, _READ_BYTES), self._end - len(self._raw)))
        if wanted > len(self._raw):
            raise _Wrong("it became shorter while it was read")

    def _take(self, num_bytes: int) -> bytes:
        self._need(num_bytes)
        self._at += num_bytes
        return bytes(self._raw[self._at - num_bytes : self._at])

    def _number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))
        return int(value)

    def _count(self, code: str, most: int, what: str) -> int:
        count = self._number(code)
        if count > most:
            raise _Wrong(f"it claims {count:,} {what}; at most {most:,} are believed")
        return count

    def _text(self, most_bytes: int) -> str:
        return self._take(self._count("Q", most_bytes, "bytes of text")).decode("utf-8", "replace")

    # -- key-value pairs ------------------------------------------------------------------------

    def _pairs(self, num_pairs: int) -> dict[str, object]:
        pairs: dict[str, object] = {}
        for _ in range(num_pairs):
            key = self._text(_MAX_KEY_BYTES)
            if key in pairs:
                raise _Wrong(f"key {key[:60]!r} is there twice")
            pairs[key] = self._value(self._number("I"))
        return pairs

    def _value(self, kind: int) -> object:
        if kind == _TEXT:
            return self._text(_MAX_TEXT_BYTES)
        if kind == _ARRAY:
            return self._array()
        code = _SCALARS.get(kind)
        if code is None:
            raise _Wrong(f"value type {kind} is not known")
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _array(self) -> _Array:
        kind = self._number("I")
        count = self._count("Q", _MAX_ITEMS, "array items")
        if kind == _TEXT:
            self._num_texts += count
            if self._num_texts > _MAX_TEXTS:
                raise _Wrong(f"it claims {self._num_texts:,} texts; at most {_MAX_TEXTS:,} are believed")
            return _Array(kind, self._walk_texts(count), count)
        code = _SCALARS.get(kind)
        if code is None:
            raise _Wrong(f"array type {kind} is not known")
        start = self._at
        self._need(count * struct.calcsize("<" + code))
        self._at += count * struct.calcsize("<" + code)
        return _Array(kind, (start,), count)

    def _walk_texts(self, count: int) -> Sequence[int]:
        """Where each of `count` texts starts; the one loop of the reader that must be fast."""
        starts = array("Q")
        raw, at, length_at = self._raw, self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > len(raw):
                self._at = at
                self._need(8)
            starts.append(at)
            at += 8 + length_at(raw, at)[0]
            if at > self._end:
                raise _Wrong("a text reaches beyond the end of the file")
        self._at = at
        self._need(0)
        return starts

    def _numbers(self, numbers: _Array) -> tuple[object, ...]:
        code = f"<{numbers.count}{_SCALARS[numbers.kind]}"
        return struct.unpack_from(code, self._raw, numbers.starts[0])

    def _string(self, start: int) -> str:
        self._at = start
        return self._text(_MAX_TEXT_BYTES)

    # -- tensors --------------------------------------------------------------------------------

    def _tensor(self) -> "_Tensor":
        name = self._text(_MAX_KEY_BYTES)
        num_dimensions = self._count("I", _MAX_DIMENSIONS, "dimensions of a tensor")
        shape = struct.unpack(f"<{num_dimensions}Q", self._take(8 * num_dimensions))
        kind = self._number("I")
        if kind not in _TENSOR_TYPES:
            raise _Wrong(f"tensor {name[:60]!r} has type {kind}, which is not known")
        return _Tensor(name, shape, kind, self._number("Q"))

    def _check_tensors(self, tensors: "list[_Tensor]", pairs: Mapping[str, object]) -> None:
        alignment = pairs.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 65_536 or alignment & (alignment - 1):
            raise _Wrong(f"alignment {str(alignment)[:40]} is not a small power of two")
        begin = -(-self._at // alignment) * alignment
        seen: set[str] = set()
        for tensor in tensors:
            if tensor.name in seen:
                raise _Wrong(f"tensor {tensor.name[:60]!r} is there twice")
            seen.add(tensor.name)
            self._check_tensor(tensor, begin, alignment)

    def _check_tensor(self, tensor: "_Tensor", begin: int, alignment: int) -> None:
        _, per_block, _ = _TENSOR_TYPES[tensor.kind]
        shown = tensor.name[:60]
        if not tensor.shape or tensor.shape[0] % per_block or not tensor.num_values:
            raise _Wrong(f"tensor {shown!r} has no possible shape: {tensor.shape}")
        if tensor.offset % alignment:
            raise _Wrong(f"tensor {shown!r} is not aligned")
        end = begin + tensor.offset + tensor.num_bytes
        if end > self._size_bytes:
            raise _Wrong(
                f"tensor {shown!r} ends at byte {end:,}, the file has {self._size_bytes:,}: "
                "it is cut off, or it lies"
            )

    # -- facts ----------------------------------------------------------------------------------

    def _describe(self, version: int, pairs: Mapping[str, object], tensors: "list[_Tensor]") -> GgufFacts:
        header_bytes = self._at
        architecture = _text_of(pairs, "general.architecture")
        if not architecture:
            raise _Wrong("it does not name its architecture")
        number = partial(self._whole_number, pairs, architecture)
        heads = number("attention.head_count")
        control, user_defined = self._special_texts(pairs)
        tokens = pairs.get("tokenizer.ggml.tokens")
        return GgufFacts(
            version=version,
            architecture=architecture,
            name=_text_of(pairs, "general.name"),
            licence=_text_of(pairs, "general.license"),
            size_bytes=self._size_bytes,
            header_bytes=header_bytes,
            parameters=sum(tensor.num_values for tensor in tensors),
            layers=number("block_count"),
            hidden=number("embedding_length"),
            heads=heads,
            kv_heads=number("attention.head_count_kv") or heads,
            head_dim=number("attention.key_length") or (number("embedding_length") // heads if heads else 0),
            ffn=number("feed_forward_length"),
            context_tokens=number("context_length"),
            vocabulary=tokens.count if isinstance(tokens, _Array) else number("vocab_size"),
            experts=number("expert_count"),
            experts_per_token=number("expert_used_count"),
            precision=_FILE_TYPES.get(_int_of(pairs, "general.file_type", -1) or 0),
            tensor_types=dict(Counter(_TENSOR_TYPES[tensor.kind][0] for tensor in tensors)),
            has_output_tensor=any(tensor.name == "output.weight" for tensor in tensors),
            chat_template=_text_of(pairs, "tokenizer.chat_template"),
            control_texts=control,
            user_defined_texts=user_defined,
            bos_token=_int_of(pairs, "tokenizer.ggml.bos_token_id", None),
            eos_token=_int_of(pairs, "tokenizer.ggml.eos_token_id", None),
            tokens_sha256=self._texts_sha256(tokens) if isinstance(tokens, _Array) else "",
        )

    def _whole_number(self, pairs: Mapping[str, object], architecture: str, key: str) -> int:
        """A count under the architecture's prefix, 0 when it is not there; of a list by layer the largest."""
        value = pairs.get(f"{architecture}.{key}", 0)
        if isinstance(value, _Array) and value.kind != _TEXT and 0 < value.count <= _MAX_LAYERS:
            value = max((item for item in self._numbers(value) if isinstance(item, int)), default=0)
        if not isinstance(value, int) or not 0 <= value < 2**40:
            raise _Wrong(f"{key} is {str(value)[:40]}, which is not possible")
        return value

    def _special_texts(self, pairs: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        tokens = pairs.get("tokenizer.ggml.tokens")
        kinds = pairs.get("tokenizer.ggml.token_type")
        if not isinstance(tokens, _Array) or not isinstance(kinds, _Array):
            return (), ()
        if len(tokens.starts) != kinds.count or kinds.kind == _TEXT:
            raise _Wrong(f"{tokens.count:,} tokens have {kinds.count:,} types")
        numbers = self._numbers(kinds)
        return self._texts_of(tokens, numbers, _CONTROL), self._texts_of(tokens, numbers, _USER_DEFINED)

    def _texts_sha256(self, texts: _Array) -> str:
        if texts.kind != _TEXT or not texts.count:
            return ""
        last = texts.starts[-1]
        end = last + 8 + int.from_bytes(self._raw[last : last + 8], "little")
        return hashlib.sha256(memoryview(self._raw)[texts.starts[0] : end]).hexdigest()

    def _texts_of(self, tokens: _Array, kinds: tuple[object, ...], wanted: int) -> tuple[str, ...]:
        texts = (self._string(tokens.starts[index]) for index, kind in enumerate(kinds) if kind == wanted)
        return tuple(text for text in texts if text)


class _Tensor:
    """Name, shape, type and place of one tensor; sizes are exact, as Python's integers do not overflow."""

    def __init__(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> None:
        self.name = name
        self.shape = shape
        self.kind = kind
        self.offset = offset
        self.num_values = prod(shape)

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        _, per_block, block_bytes = _TENSOR_TYPES[self.kind]
        return self.num_values // per_block * block_bytes


def _text_of(pairs: Mapping[str, object], key: str) -> str | None:
    value = pairs.get(key)
    return value if isinstance(value, str) else None


def _int_of(pairs: Mapping[str, object], key: str, missing: int | None) -> int | None:
    value = pairs.get(key, missing)
    return value if isinstance(value, int) else missing
