"""What the echo engine says: pure functions from a request body to words, usage and logprobs.

A token is a word (whitespace-separated). The answer repeats the words of the last user message:
- `tokens` words long if that switch is set, else as long as the message; `max_tokens` cuts it (`length`).
- Without the switch and with `max_tokens`, or with `ignore_eos`, it repeats until `max_tokens` words.
Choice i starts at word i, so that choices can be told apart. Prompt tokens are all words of all messages.
A word `echo:SWITCH` or `echo:SWITCH=VALUE` in the last message sets that switch for this request.
"""

import base64
import hashlib
import struct
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from outpace.values.errors import ContextTooLong, InvalidInput

MAGIC = "echo:"
_MOST_TOKENS = 1_000_000
_DIMENSIONS = 8

Count = Annotated[int, Meta(ge=0, le=_MOST_TOKENS)]
Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]


class Switches(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the echo engine behaves; every switch works as engine setting, and but for `*_start*` per request."""

    # Before the first token, and between tokens (0: as fast as possible).
    delay_ms: Milliseconds = 0
    token_interval_ms: Milliseconds = 0
    # Natural length of an answer; 0: that of the message.
    tokens: Count = 0
    # Prompt and output together; 0: the order's context.
    context_tokens: Count = 0
    # Streams that run at once; 0: no limit. Others wait in order.
    parallel: Count = 0
    # Accept and never answer; stop answering in mid-stream.
    hang: bool = False
    hang_after_tokens: Count | None = None
    # End the process at once, or in mid-stream.
    crash: bool = False
    crash_after_tokens: Count | None = None
    # Close the connection in mid-stream; send an error event in mid-stream.
    drop_after_tokens: Count | None = None
    error_after_tokens: Count | None = None
    # Answer HTML with status 500; answer an error with this status.
    garbage: bool = False
    error_status: Annotated[int, Meta(ge=0, le=599)] = 0
    # Never come up; come up late.
    crash_on_start: bool = False
    slow_start_ms: Milliseconds = 0


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


class Body(msgspec.Struct):
    """The fields of a request body that the echo engine reads."""

    model: str = "echo"
    messages: list[_Message] = []
    prompt: Any = None
    input: Any = None
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    stop: str | list[str] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int = 0
    ignore_eos: bool = False
    dimensions: int | None = None
    encoding_format: str = "float"


class Choice(msgspec.Struct, frozen=True):
    """One answer: its tokens (texts that join to the answer), and why it ends."""

    tokens: list[str]
    finish_reason: str


class Plan(msgspec.Struct, frozen=True):
    """Everything that one request will be answered with."""

    choices: list[Choice]
    prompt_tokens: int
    switches: Switches

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(len(choice.tokens) for choice in self.choices)

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max((len(choice.tokens) for choice in self.choices), default=0)


def plan_chat(body: Body, switches: Switches) -> Plan:
    """The answer to a chat. Raises ContextTooLong, InvalidInput."""
    texts = [_text(message.content) for message in body.messages]
    spoken = [text for message, text in zip(body.messages, texts, strict=True) if message.role == "user"]
    words = (spoken or texts or [""])[-1].split()
    switches = _switched(words, switches)
    prompt_tokens = sum(len(text.split()) for text in texts)
    limit = body.max_completion_tokens or body.max_tokens
    choices = _choices(words, prompt_tokens, limit, body, switches)
    return Plan(choices, prompt_tokens, switches)


def plan_completions(body: Body, switches: Switches) -> Plan:
    """The answer to a completion: choices of the first prompt first. Raises ContextTooLong, InvalidInput."""
    prompts = [_words(prompt) for prompt in _prompts(body.prompt)]
    limit = 16 if body.max_tokens is None else body.max_tokens
    choices: list[Choice] = []
    for words in prompts:
        switches = _switched(words, switches)
        choices += _choices(words, len(words), limit, body, switches)
    return Plan(choices, sum(map(len, prompts)), switches)


def num_words(raw: bytes) -> int:
    """Prompt tokens of a request body, as the plans count them."""
    body = msgspec.json.decode(raw, type=Body)
    if body.messages:
        return sum(len(_text(message.content).split()) for message in body.messages)
    return sum(len(_words(prompt)) for prompt in _prompts(body.prompt))


def embeddings(body: Body) -> tuple[list[list[float] | str], int]:
    """A unit vector per input that only depends on its words, and the number of words."""
    inputs = [_words(item) for item in _prompts(body.input)]
    vectors = [_vector(words, body.dimensions or _DIMENSIONS) for words in inputs]
    total = sum(map(len, inputs))
    if body.encoding_format != "base64":
        return list(vectors), total
    packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    return [base64.b64encode(raw).decode() for raw in packed], total


def chat_logprobs(tokens: list[str], num_top: int) -> dict[str, Any]:
    """Made-up but well-formed: a longer word is less likely; alternatives are the word and `~` marks."""
    return {"content": [_entry(token, num_top) for token in tokens], "refusal": None}


def completion_logprobs(tokens: list[str], num_top: int, offset: int) -> dict[str, Any]:
    """The same figures in the shape of `/v1/completions`; `offset` is where the first token starts."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    top = [{_other(token, rank): _logprob(token) - rank for rank in range(num_top)} for token in tokens]
    return {
        "tokens": tokens,
        "token_logprobs": [_logprob(token) for token in tokens],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def _choices(
    words: list[str], prompt_tokens: int, limit: int | None, body: Body, s: Switches
) -> list[Choice]:
    if s.context_tokens and prompt_tokens + (limit or 1) > s.context_tokens:
        raise ContextTooLong(s.context_tokens, prompt_tokens, limit or 1)
    length, finish_reason = _length(words, prompt_tokens, limit, body, s)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [_stopped(_repeat(words, index, length), finish_reason, stops) for index in range(body.n)]


def _length(
    words: list[str], prompt_tokens: int, limit: int | None, body: Body, s: Switches
) -> tuple[int, str]:
    room = s.context_tokens - prompt_tokens if s.context_tokens else _MOST_TOKENS
    most = min(room, _MOST_TOKENS if limit is None else limit)
    natural = s.tokens or len(words) or 1
    endless = body.ignore_eos or (not s.tokens and limit is not None)
    if endless and (limit is not None or s.context_tokens):
        return most, "length"
    return (most, "length") if natural > most else (natural, "stop")


def _repeat(words: list[str], first: int, length: int) -> list[str]:
    source = words or ["echo"]
    start = first % len(source)
    turned = source[start:] + source[:start]
    repeated = (turned * (length // len(turned) + 1))[:length]
    return [word if index == 0 else f" {word}" for index, word in enumerate(repeated)]


def _stopped(tokens: list[str], finish_reason: str, stops: list[str]) -> Choice:
    if not stops:
        return Choice(tokens, finish_reason)
    text = "".join(tokens)
    cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    if cut < 0:
        return Choice(tokens, finish_reason)
    kept: list[str] = []
    for token in tokens:
        if cut <= 0:
            break
        kept.append(token[:cut])
        cut -= len(token)
    return Choice(kept, "stop")


def _switched(words: list[str], switches: Switches) -> Switches:
    asked = dict(word[len(MAGIC) :].partition("=")[::2] for word in words if word.startswith(MAGIC))
    if not asked:
        return switches
    given = {name: value or "true" for name, value in asked.items()}
    try:
        changed = msgspec.convert(given, Switches, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput("messages", f"{MAGIC} switch: {error}") from error
    return msgspec.structs.replace(switches, **{name: getattr(changed, name) for name in given})


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


def _prompts(given: Any) -> list[Any]:
    if isinstance(given, list) and given and isinstance(given[0], str | list):
        return given
    return [given]


def _words(given: Any) -> list[str]:
    return [str(token) for token in given] if isinstance(given, list) else str(given or "").split()


def _vector(words: list[str], dimensions: int) -> list[float]:
    digest = hashlib.shake_256(" ".join(words).encode()).digest(dimensions * 2)
    raw = [value - 32_767.5 for value in struct.unpack(f"<{dimensions}H", digest)]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]


def _entry(token: str, num_top: int) -> dict[str, Any]:
    top = [_ranked(token, rank) for rank in range(num_top)]
    return {**_ranked(token, 0), "top_logprobs": top}


def _ranked(token: str, rank: int) -> dict[str, Any]:
    other = _other(token, rank)
    return {"token": other, "logprob": _logprob(token) - rank, "bytes": list(other.encode())}


def _other(token: str, rank: int) -> str:
    return token + "~" * rank


def _logprob(token: str) -> float:
    return -0.1 * (1 + len(token.strip()) % 7)
