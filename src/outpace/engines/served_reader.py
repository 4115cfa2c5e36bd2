"""Streams of vLLM and its like made to follow the contract: every event tells usage so far, nothing of theirs is shown.

Usage in an event is that of its choice; the last event, without choices, tells the sum. An answer that is given up is
therefore billed by the engine's own count.
"""

from typing import Any

import msgspec

from outpace.engines.llamacpp_reader import StreamPlan, too_long
from outpace.engines.readers import DONE, NULL_USAGE, ErrorOf, EventReader
from outpace.engines.tools import CallWrapper
from outpace.engines.wire import ENCODE, WireUsage, encode_usage
from outpace.values.errors import EngineFailed
from outpace.values.usage import Usage


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    # vLLM's newer name, and the older one that SGLang and TensorRT-LLM use.
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice]
    id: str = ""
    object: str = ""
    created: int = 0
    model: str = ""
    system_fingerprint: str | None = None
    usage: WireUsage | None = None


_DECODE = msgspec.json.Decoder(_Event).decode


class ServedReader(EventReader):
    """The reader of every streamed leg to such a server, be the client's answer streamed or folded."""

    def __init__(self, error: ErrorOf, plan: StreamPlan, model: str) -> None:
        super().__init__(error)
        self._plan = plan
        self._model = model
        # Usage of each choice so far.
        self._seen: dict[int, WireUsage] = {}
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()
        self._calls: dict[int, CallWrapper] = {}
        self._head: dict[str, Any] = {}

    @property
    def usage(self) -> Usage:
        """The engine's sum; before it, what its events told of every choice."""
        if self._reported is not None or not self._seen:
            return super().usage
        per_prompt = self._plan.num_choices
        prompts = {index // per_prompt: seen.value() for index, seen in self._seen.items()}
        return Usage(
            prompt_tokens=sum(each.prompt_tokens for each in prompts.values()),
            completion_tokens=sum(seen.completion_tokens for seen in self._seen.values()),
            cached_tokens=sum(each.cached_tokens for each in prompts.values()),
        )

    def _event(self, event: bytes) -> bytes:
        if event.startswith(b"data: [DONE]"):
            return self._done()
        if not event.startswith(b"data: "):
            return b""
        try:
            parsed = _DECODE(event[6:])
        except msgspec.DecodeError as error:
            if b'"error"' in event:
                raise self._error(500, event[6:]) from error
            raise EngineFailed("The engine sent an event that is no JSON of the expected form.") from error
        return self._parsed(parsed)

    def _parsed(self, parsed: _Event) -> bytes:
        if not self._head:
            self._head = {
                "id": parsed.id,
                "object": "chat.completion.chunk" if self._plan.is_chat else "text_completion",
                "created": parsed.created,
                "model": self._model,
            }
        if not parsed.choices:
            if parsed.usage is not None:
                self._reported = parsed.usage.value()
            return b""
        return b"".join([self._choice(choice, parsed.usage) for choice in parsed.choices])

    def _choice(self, choice: _Choice, usage: WireUsage | None) -> bytes:
        if usage is not None:
            if choice.index not in self._seen:
                self._check_room(usage.prompt_tokens)
            self._seen[choice.index] = usage
        else:
            self._num_deltas += 1
        shown = self._chat(choice) if self._plan.is_chat else self._text(choice)
        if choice.finish_reason is not None:
            self.finish_reason = shown[-1]["finish_reason"] if shown else choice.finish_reason
        return b"".join([self._encoded(each) for each in shown])

    def _check_room(self, prompt_tokens: int) -> None:
        """Refuse what does not fit before anything was sent: these servers shorten the answer instead."""
        plan = self._plan
        if plan.context_tokens is None or plan.output_tokens is None:
            return
        if prompt_tokens + plan.output_tokens > plan.context_tokens:
            raise too_long(plan.context_tokens, prompt_tokens, plan.output_tokens, plan.is_chat)

    def _chat(self, choice: _Choice) -> list[dict[str, Any]]:
        given = choice.delta or _Delta()
        shown = []
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            shown.append(_shown(choice.index, {"role": "assistant", "content": ""}))
        delta = self._delta(choice, given)
        finish = choice.finish_reason
        if self._plan.tools.forced and finish == "stop":
            finish = "tool_calls"
        if delta or finish is not None:
            shown.append(_shown(choice.index, delta, self._chat_logprobs(choice), finish))
        return shown

    def _delta(self, choice: _Choice, given: _Delta) -> dict[str, Any]:
        if self._plan.tools.forced:
            return self._call(choice, given)
        delta: dict[str, Any] = {}
        if given.content:
            delta["content"] = given.content
        if given.reasoning or given.reasoning_content:
            delta["reasoning_content"] = given.reasoning or given.reasoning_content
        if given.tool_calls:
            delta["tool_calls"] = given.tool_calls
        return delta

    def _call(self, choice: _Choice, given: _Delta) -> dict[str, Any]:
        """A forced answer is the JSON of a call."""
        wrapper = self._calls.get(choice.index)
        if wrapper is None:
            call_id = f"call_{self._head['id'].removeprefix('chatcmpl-')}{choice.index}"
            wrapper = self._calls[choice.index] = CallWrapper(call_id, self._plan.tools.forced_name)
        delta = (wrapper.delta(given.content) if given.content else None) or {}
        return (delta or wrapper.last()) if choice.finish_reason is not None else delta

    def _chat_logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        if self._plan.top_logprobs is None or not choice.logprobs:
            return None
        num_top = self._plan.top_logprobs
        entries = [
            {**entry, "top_logprobs": (entry.get("top_logprobs") or [])[:num_top]}
            for entry in choice.logprobs.get("content") or ()
        ]
        return {"content": entries, "refusal": None}

    def _text(self, choice: _Choice) -> list[dict[str, Any]]:
        shown = {
            "text": choice.text or "",
            "index": choice.index,
            "logprobs": self._text_logprobs(choice),
            "finish_reason": choice.finish_reason,
        }
        return [shown]

    def _text_logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        if self._plan.top_logprobs is None or not choice.logprobs:
            return None
        start = self._offsets.get(choice.index, 0)
        tokens = choice.logprobs["tokens"]
        offsets = []
        for token in tokens:
            offsets.append(start)
            start += len(token)
        self._offsets[choice.index] = start
        return {**choice.logprobs, "text_offset": offsets}

    def _encoded(self, choice: dict[str, Any]) -> bytes:
        raw = ENCODE({**self._head, "choices": [choice]})
        if self._plan.wants_usage:
            raw = raw[:-1] + NULL_USAGE + b"}"
        return b"data: " + raw + b"\n\n"

    def _done(self) -> bytes:
        if self._reported is None:
            if not self._seen:
                raise EngineFailed("The engine ended its stream without usage.")
            self._reported = self.usage
        self.is_complete = True
        if not self._plan.wants_usage:
            return DONE
        head = ENCODE({**self._head, "choices": []})
        return b"data: " + head[:-1] + b',"usage":' + encode_usage(self._reported) + b"}\n\n" + DONE


def _shown(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
