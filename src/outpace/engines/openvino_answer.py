"""One request's answer as OpenAI-style events, streamed or folded into one body."""

import base64
from collections.abc import Sequence
from typing import Any

from outpace.engines.folding import fold
from outpace.engines.openvino_text import AnswerText, Said, chat_logprobs, completion_logprobs
from outpace.engines.openvino_wire import Ask, Piece
from outpace.engines.readers import DONE
from outpace.engines.responses import error_body
from outpace.engines.tools import CallWrapper
from outpace.engines.wire import ENCODE, encode_usage
from outpace.values.usage import Usage

_ENDS = frozenset({"stop", "length"})


class Choice:
    """One sequence on its way to the client."""

    def __init__(self, index: int, ask: Ask, call_id: str) -> None:
        self.index = index
        self.text = AnswerText(ask.stop)
        self.num_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.cached_tokens = 0
        self.is_over = False
        # Characters before the next token, as completions' log-probabilities count them.
        self.offset = 0
        self.wrapper = None if ask.call is None else CallWrapper(call_id, ask.call or None)


class Answer:
    """Turns the engine's pieces into events; `usage` grows as they come."""

    def __init__(self, ask: Ask, prompt_tokens: int, head: dict[str, Any], pieces: Sequence[bytes]) -> None:
        self.is_chat = ask.messages is not None
        self.is_opened = False
        # What went wrong in the engine, once something did.
        self.failure: str | None = None
        self._ask = ask
        self._pieces = pieces
        self._prompt_tokens = prompt_tokens
        self._head = head
        self._before = b"data: " + ENCODE(head)[:-1] + b',"choices":['
        self._prompts = ask.prompts or [""]
        call_id = f"call_{base64.b32encode(head['id'].encode()).decode().strip('=').lower()[-16:]}"
        self.choices = [
            Choice(index, ask, f"{call_id}{index}") for index in range(ask.n * len(self._prompts))
        ]

    @property
    def usage(self) -> Usage:
        """Tokens read and written so far."""
        return Usage(
            self._prompt_tokens,
            sum(choice.num_tokens for choice in self.choices),
            # A prompt counts once, however many choices read it.
            sum(choice.cached_tokens for choice in self.choices[:: self._ask.n]),
            drafted_tokens=sum(choice.drafted_tokens for choice in self.choices),
            accepted_tokens=sum(choice.accepted_tokens for choice in self.choices),
        )

    @property
    def is_over(self) -> bool:
        """Every choice has ended."""
        return all(choice.is_over for choice in self.choices)

    def open(self) -> bytes:
        """The events before the first token. The first one tells the prompt's length, also to who leaves early."""
        self.is_opened = True
        events = [self._event(choice, _opening(self.is_chat), b"null", b"null") for choice in self.choices]
        first = events[0].removesuffix(b"}\n\n") + b',"usage":' + encode_usage(self.usage) + b"}\n\n"
        if self.is_chat:
            return b"".join([first, *events[1:]])
        echoed = [
            self._said(choice, Said(self._prompt_of(choice))) for choice in self.choices if self._ask.echo
        ]
        return b"".join([first, *echoed])

    def take(self, index: int, piece: Piece) -> bytes:
        """The events of what one choice got; sets `failure` when the engine gave it up."""
        choice = self.choices[index]
        if choice.is_over:
            return b""
        choice.num_tokens += len(piece.tokens)
        choice.drafted_tokens += piece.drafted
        choice.accepted_tokens += piece.accepted
        choice.cached_tokens += piece.cached
        said = choice.text.add([self._pieces[token] for token in piece.tokens], piece.logprobs)
        events = self._said(choice, said)
        if choice.text.is_stopped:
            return events + self._ended(choice, "stop")
        if piece.end is None:
            return events
        if piece.end not in _ENDS:
            choice.is_over = True
            self.failure = piece.end
            return events
        events += self._said(choice, choice.text.finish())
        return events + self._ended(choice, "stop" if choice.text.is_stopped else piece.end)

    def close(self) -> bytes:
        """Usage and the terminal event, or the error that takes their place."""
        if self.failure is not None:
            return b"data: " + error_body(self.failure, "engine_failed") + b"\n\n"
        return (
            b"data: "
            + ENCODE({**self._head, "choices": []})[:-1]
            + b',"usage":'
            + encode_usage(self.usage)
            + b"}\n\n"
            + DONE
        )

    def whole(self, events: Sequence[bytes]) -> bytes:
        """The body of a request that does not stream."""
        return fold(b"".join(events), self.usage, self.is_chat)

    def end_unasked(self) -> bytes:
        """Every choice ended before it began: nothing was to be generated."""
        return b"".join(self._ended(choice, "length") for choice in self.choices)

    def _said(self, choice: Choice, said: Said) -> bytes:
        if not said.text and not said.entries:
            return b""
        if choice.wrapper is not None:
            delta = choice.wrapper.delta(said.text)
            return (
                b""
                if delta is None
                else self._event(choice, ENCODE({"delta": delta})[1:-1], b"null", b"null")
            )
        logprobs = self._logprobs(choice, said) if said.entries else None
        text = ENCODE(said.text)
        body = b'"delta":{"content":%s}' % text if self.is_chat else b'"text":%s' % text
        return self._event(choice, body, ENCODE(logprobs), b"null")

    def _logprobs(self, choice: Choice, said: Said) -> dict[str, Any] | None:
        if self.is_chat:
            return chat_logprobs(said.entries)
        shaped, choice.offset = completion_logprobs(said.entries, choice.offset)
        return shaped

    def _ended(self, choice: Choice, reason: str) -> bytes:
        choice.is_over = True
        delta: dict[str, Any] = {}
        if choice.wrapper is not None:
            delta = choice.wrapper.last()
            reason = "tool_calls" if reason == "stop" else reason
        body = ENCODE({"delta": delta} if self.is_chat else {"text": ""})[1:-1]
        return self._event(choice, body, b"null", b'"%s"' % reason.encode())

    def _prompt_of(self, choice: Choice) -> str:
        return str(self._prompts[choice.index // self._ask.n])

    def _event(self, choice: Choice, body: bytes, logprobs: bytes, finish: bytes) -> bytes:
        said = b'{"index":%d,%s,"logprobs":%s,"finish_reason":%s}' % (choice.index, body, logprobs, finish)
        return self._before + said + b"]}\n\n"


def _opening(is_chat: bool) -> bytes:
    return b'"delta":{"role":"assistant","content":""}' if is_chat else b'"text":""'
