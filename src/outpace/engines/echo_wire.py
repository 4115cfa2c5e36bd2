"""The echo engine's bytes: JSON answers and stream events, encoded before they are due."""

from typing import Any

import msgspec

from outpace.engines.echo_words import Body, Plan, chat_logprobs, completion_logprobs
from outpace.engines.responses import STREAM_END, chunk, json_response

_ENCODE = msgspec.json.Encoder().encode


class Answer:
    """One request's answer as bytes: `step(i)` for token i of every choice, then `end`; or `whole`."""

    def __init__(self, plan: Plan, body: Body, is_chat: bool, number: int, created: int, model: str) -> None:
        self.plan = plan
        self.is_stream = body.stream
        self._body = body
        self._is_chat = is_chat
        kind = "chat.completion" if is_chat else "text_completion"
        self._kind = f"{kind}.chunk" if is_chat and body.stream else kind
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._head = {
            "id": f"{prefix}-echo-{number}",
            "object": self._kind,
            "created": created,
            "model": model,
        }
        self._before = b"data: " + _ENCODE(self._head)[:-1] + b',"choices":['
        self._after = b'],"usage":null}\n\n'
        self._offsets = [0] * len(plan.choices)

    @property
    def usage(self) -> dict[str, Any]:
        """Counts of the whole plan."""
        prompt, completion = self.plan.prompt_tokens, self.plan.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def start(self) -> bytes:
        """The events before the first token."""
        if not self._is_chat:
            return b""
        return b"".join(
            self._event(index, b'"delta":{"role":"assistant","content":""}', b"null", b"null")
            for index in range(len(self.plan.choices))
        )

    def step(self, position: int) -> bytes:
        """The events of token `position`: one per choice that has one, its finish when it was the last."""
        events = []
        for index, choice in enumerate(self.plan.choices):
            if position < len(choice.tokens):
                events.append(self._token(index, choice.tokens[position]))
            if position == max(len(choice.tokens) - 1, 0):
                events.append(self._finish(index, choice.finish_reason))
        return chunk(b"".join(events))

    def end(self) -> bytes:
        """Usage and the terminal event."""
        usage = _ENCODE({**self._head, "choices": [], "usage": self.usage})
        return chunk(b"data: " + usage + b"\n\ndata: [DONE]\n\n") + STREAM_END

    def whole(self) -> bytes:
        """The answer of a request that does not stream."""
        choices = [self._choice(index) for index in range(len(self.plan.choices))]
        return json_response(200, _ENCODE({**self._head, "choices": choices, "usage": self.usage}))

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self.plan.choices[index]
        text = "".join(choice.tokens)
        said: dict[str, Any] = {"text": text}
        if self._is_chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        logprobs = self._logprobs(choice.tokens, 0)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _token(self, index: int, token: str) -> bytes:
        text = _ENCODE(token)
        said = b'"delta":{"content":%s}' % text if self._is_chat else b'"text":%s' % text
        logprobs = _ENCODE(self._logprobs([token], self._offsets[index]))
        self._offsets[index] += len(token)
        return self._event(index, said, logprobs, b"null")

    def _finish(self, index: int, finish_reason: str) -> bytes:
        said = b'"delta":{}' if self._is_chat else b'"text":""'
        return self._event(index, said, b"null", b'"%s"' % finish_reason.encode())

    def _event(self, index: int, said: bytes, logprobs: bytes, finish_reason: bytes) -> bytes:
        choice = b'{"index":%d,%s,"logprobs":%s,"finish_reason":%s}' % (index, said, logprobs, finish_reason)
        return self._before + choice + self._after

    def _logprobs(self, tokens: list[str], offset: int) -> dict[str, Any] | None:
        asked = self._body.logprobs
        if asked is None or asked is False:
            return None
        if self._is_chat:
            return chat_logprobs(tokens, self._body.top_logprobs)
        return completion_logprobs(tokens, int(asked), offset)
