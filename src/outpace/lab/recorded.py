"""Workloads from files: a user's JSONL, or a recorded trace of arrivals and lengths."""

import csv
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from outpace.lab.prompts import filler
from outpace.lab.workload import Conversation, Turn
from outpace.values.errors import InvalidInput

# Tokens behind one id of a trace's `hash_ids`; equal ids are an equal prefix.
_BLOCK_TOKENS = 512
_DEFAULT_OUTPUT_TOKENS = 128
_MOST_LINES = 1_000_000
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How a trace is made to fit a small machine: times and lengths are multiplied, lengths cut at the limits."""

    time: float = 1.0
    tokens: float = 1.0
    most_input_tokens: int = 1_000_000
    most_output_tokens: int = 1_000_000

    def lengths(self, input_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Prompt and answer as they are asked for."""
        return (
            min(max(1, round(input_tokens * self.tokens)), self.most_input_tokens),
            min(max(1, round(output_tokens * self.tokens)), self.most_output_tokens),
        )


class _Line(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    at_s: float | None = None


class _Recorded(msgspec.Struct, kw_only=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


def load(path: Path, scale: Scale = Scale(), most: int | None = None) -> list[Conversation]:
    """The conversations of a file, at most `most`.

    Knows JSONL with `prompt` or `messages`, `max_tokens` and `at_s` per line; JSONL with `timestamp` (ms),
    `input_length`, `output_length` and `hash_ids`; CSV with TIMESTAMP, ContextTokens, GeneratedTokens. Raises
    InvalidInput naming the line.
    """
    text = _text(path)
    read = _from_csv if path.suffix == ".csv" else _from_jsonl
    found: list[Conversation] = []
    for conversation in read(text, scale):
        if len(found) >= (most or _MOST_LINES):
            break
        found.append(conversation)
    if not found:
        raise InvalidInput("workload", f"{path} holds no request")
    return found


def recorded_lengths(path: Path, scale: Scale) -> Iterator[tuple[float, int, int]]:
    """Arrival second, prompt and answer tokens of each request of a recorded trace. Raises InvalidInput."""
    text = _text(path)
    for recorded in _rows(text) if path.suffix == ".csv" else _lines(text):
        at_s = recorded.timestamp / 1000 * scale.time
        yield at_s, *scale.lengths(recorded.input_length, recorded.output_length)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("workload", f"{path} cannot be read: {error}") from error


def _lines(text: str) -> Iterator[_Recorded]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if line.strip():
                yield msgspec.json.decode(line, type=_Recorded)
        except msgspec.DecodeError as error:
            raise InvalidInput("workload", f"line {number}: {error}") from error


def _from_jsonl(text: str, scale: Scale) -> Iterator[Conversation]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            if '"input_length"' in line:
                yield _of_lengths(msgspec.json.decode(line, type=_Recorded), scale)
            else:
                yield _of_line(msgspec.json.decode(line, type=_Line), scale)
        except (msgspec.DecodeError, InvalidInput) as error:
            raise InvalidInput("workload", f"line {number}: {error}") from error


def _from_csv(text: str, scale: Scale) -> Iterator[Conversation]:
    for number, recorded in enumerate(_rows(text), 2):
        yield _of_lengths(recorded, scale, seed=number)


def _rows(text: str) -> Iterator[_Recorded]:
    rows = csv.DictReader(text.splitlines())
    if tuple(rows.fieldnames or ())[:3] != _AZURE:
        raise InvalidInput("workload", f"a CSV trace has the columns {', '.join(_AZURE)}")
    first_s: float | None = None
    for number, row in enumerate(rows, 2):
        try:
            at_s = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
            first_s = at_s if first_s is None else first_s
            lengths = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise InvalidInput("workload", f"line {number}: {error}") from error
        yield _Recorded(timestamp=1000 * (at_s - first_s), input_length=lengths[0], output_length=lengths[1])


def _of_line(line: _Line, scale: Scale) -> Conversation:
    if (line.prompt is None) == (line.messages is None):
        raise InvalidInput("prompt", "give either `prompt` or `messages`")
    messages = line.messages or [{"role": "user", "content": line.prompt}]
    last = messages[-1]
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        raise InvalidInput("messages", "the last one must be the user's, with text")
    turn = Turn(text=last["content"], output_tokens=line.max_tokens or _DEFAULT_OUTPUT_TOKENS)
    at_s = None if line.at_s is None else line.at_s * scale.time
    return Conversation(turns=(turn,), before=tuple(messages[:-1]), at_s=at_s)


def _of_lengths(recorded: _Recorded, scale: Scale, seed: int = 0) -> Conversation:
    tokens, output = scale.lengths(recorded.input_length, recorded.output_length)
    turn = Turn(text=_text_of(recorded, tokens, scale, seed), output_tokens=output)
    return Conversation(turns=(turn,), at_s=recorded.timestamp / 1000 * scale.time)


def _text_of(recorded: _Recorded, tokens: int, scale: Scale, seed: int) -> str:
    """Words whose shared prefixes are those of the trace."""
    if not recorded.hash_ids:
        return filler(random.Random(f"trace/{seed}/{recorded.timestamp}"), tokens)
    block = max(1, round(_BLOCK_TOKENS * scale.tokens))
    words = " ".join(filler(random.Random(f"block/{number}"), block) for number in recorded.hash_ids).split()
    return " ".join(words[:tokens])
