"""One path for both modes: a streamed leg to the engine, folded into the answer of a request that does not stream."""

from collections.abc import Mapping
from typing import Any

import msgspec

from outpace.engines.readers import EventReader
from outpace.engines.wire import ENCODE, encode_usage
from outpace.values.errors import EngineFailed
from outpace.values.usage import Usage


class FoldingReader:
    """Feeds a stream's reader and joins what it would have sent."""

    def __init__(self, inner: EventReader, is_chat: bool) -> None:
        self._inner = inner
        self._is_chat = is_chat
        self._events: list[bytes] = []

    @property
    def usage(self) -> Usage:
        return self._inner.usage

    @property
    def finish_reason(self) -> str | None:
        return self._inner.finish_reason

    @property
    def is_complete(self) -> bool:
        return self._inner.is_complete

    def started(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._inner.started(status, headers)

    def feed(self, piece: bytes) -> bytes:
        self._events.append(self._inner.feed(piece))
        return b""

    def finished(self) -> bytes:
        self._events.append(self._inner.finished())
        return fold(b"".join(self._events), self._inner.usage, self._is_chat)


def fold(stream: bytes, usage: Usage, is_chat: bool) -> bytes:
    """The JSON answer that the events in `stream` add up to."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in stream.split(b"\n\n"):
        if not event or event == b"data: [DONE]":
            continue
        payload = msgspec.json.decode(event[6:])
        head = head or payload
        for piece in payload["choices"]:
            _add(choices.setdefault(piece["index"], _empty(piece["index"], is_chat)), piece, is_chat)
    if not choices:
        raise EngineFailed("The engine's stream held no choices.")
    answer = {
        "id": head["id"],
        "object": "chat.completion" if is_chat else "text_completion",
        "created": head["created"],
        "model": head["model"],
        "system_fingerprint": head.get("system_fingerprint"),
        "choices": [_closed(choices[index], is_chat) for index in sorted(choices)],
    }
    return ENCODE(answer)[:-1] + b',"usage":' + encode_usage(usage) + b"}"


def _empty(index: int, is_chat: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"text": []}
    if is_chat:
        said = {"message": {"role": "assistant", "content": [], "refusal": None}}
    return {"index": index, **said, "logprobs": None, "finish_reason": None}


def _add(choice: dict[str, Any], piece: dict[str, Any], is_chat: bool) -> None:
    choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
    if piece.get("logprobs"):
        choice["logprobs"] = _joined_logprobs(choice["logprobs"], piece["logprobs"])
    if not is_chat:
        choice["text"].append(piece["text"])
        return
    message, delta = choice["message"], piece["delta"]
    message["content"].append(delta.get("content") or "")
    if delta.get("reasoning_content"):
        message.setdefault("reasoning_content", []).append(delta["reasoning_content"])
    for call in delta.get("tool_calls") or ():
        _add_call(message.setdefault("tool_calls", {}), call)


def _add_call(calls: dict[int, dict[str, Any]], call: dict[str, Any]) -> None:
    function = call.get("function") or {}
    if call["index"] not in calls:
        calls[call["index"]] = {
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": []},
        }
    calls[call["index"]]["function"]["arguments"].append(function.get("arguments") or "")


def _joined_logprobs(so_far: dict[str, Any] | None, more: dict[str, Any]) -> dict[str, Any]:
    if so_far is None:
        return more
    return {
        name: [*value, *(more[name] or ())] if isinstance(value, list) else value
        for name, value in so_far.items()
    }


def _closed(choice: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    if not is_chat:
        choice["text"] = "".join(choice["text"])
        return choice
    message = choice["message"]
    calls = message.get("tool_calls")
    message["content"] = "".join(message["content"]) or (None if calls else "")
    if "reasoning_content" in message:
        message["reasoning_content"] = "".join(message["reasoning_content"])
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
        for call in message["tool_calls"]:
            call["function"]["arguments"] = "".join(call["function"]["arguments"])
    return choice
