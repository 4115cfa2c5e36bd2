"""llama.cpp's stream made to follow the contract.

A plain delta passes as bytes (its `created` fixed); only the first and last events of a choice, and those that need
reshaping (log-probabilities, forced tool calls), are parsed. Knows the form of llama.cpp's JSON for speed alone: an
event of another form is parsed and comes out right all the same.
"""

import re
from typing import Any

import msgspec

from outpace.engines.llamacpp_logprobs import chat_logprobs, completion_logprobs
from outpace.engines.readers import DONE, NULL_USAGE, ErrorOf, EventReader
from outpace.engines.tools import CallWrapper, ToolPlan
from outpace.engines.wire import ENCODE, encode_usage
from outpace.values.errors import ContextTooLong, EngineFailed
from outpace.values.usage import Usage

_CREATED = re.compile(rb'"created":\d+,')
_CHAT_START = b'data: {"choices":[{"finish_reason":null,"index":'
_CHAT_END = b'"object":"chat.completion.chunk"}\n\n'
_ROLE = b'"delta":{"role"'
_TEXT_START = b'data: {"choices":[{"text":"'
_TEXT_GOES_ON = b'"logprobs":null,"finish_reason":null}],"created":'
# Ends an event whose last member is an object: progress or timings.
_OBJECT_END = b"}}\n\n"


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader must know of the request."""

    is_chat: bool
    wants_usage: bool = False
    # Choices per prompt, and prompts.
    num_choices: int = 1
    num_prompts: int = 1
    # Output asked for, and the context it must fit in together with the prompt; None: not to be checked.
    output_tokens: int | None = None
    context_tokens: int | None = None
    # Alternatives to show per token; None: no log-probabilities.
    top_logprobs: int | None = None
    # Prompts to repeat before the answer, and whether anything comes after them (`max_tokens` 0: nothing does).
    echoed: tuple[str, ...] = ()
    is_output_dropped: bool = False
    tools: ToolPlan = ToolPlan()


class LlamaReader(EventReader):
    """The reader of every streamed leg, be the client's answer streamed or folded."""

    def __init__(self, error: ErrorOf, plan: StreamPlan) -> None:
        super().__init__(error)
        self._plan = plan
        is_reshaped = (
            plan.top_logprobs is not None or plan.tools.forced or plan.is_output_dropped or plan.echoed
        )
        self._is_plain_chat = plan.is_chat and not is_reshaped
        self._is_plain_text = not plan.is_chat and not is_reshaped
        self._created: bytes = b""
        self._created_s = 0
        self._last: dict[str, Any] = {}
        self._prompts: dict[int, tuple[int, int]] = {}
        self._num_reports = 0
        self._output_tokens = 0
        self._drafted_tokens = self._accepted_tokens = 0
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()
        self._calls: dict[int, CallWrapper] = {}

    def _event(self, event: bytes) -> bytes:
        if self._is_plain_chat:
            if event.startswith(_CHAT_START) and event.endswith(_CHAT_END) and _ROLE not in event:
                return self._plain(event)
        elif self._is_plain_text and _is_text_delta(event):
            return self._plain(event)
        return self._rare(event)

    def _plain(self, event: bytes) -> bytes:
        self._num_deltas += 1
        if self._created not in event or not self._created:
            event = self._with_created(event)
        return event[:-3] + NULL_USAGE + b"}\n\n" if self._plan.wants_usage else event

    def _with_created(self, event: bytes) -> bytes:
        if self._created:
            return _CREATED.sub(self._created, event, count=1)
        found = _CREATED.search(event)
        if found:
            self._created, self._created_s = found[0], int(found[0][10:-1])
        return event

    # -- events that are parsed

    def _rare(self, event: bytes) -> bytes:
        if event.startswith(b"data: [DONE]"):
            return self._done()
        if not event.startswith(b"data: "):
            return b""
        try:
            payload = msgspec.json.decode(event[6:])
        except msgspec.DecodeError as error:
            raise EngineFailed("The engine sent an event that is no JSON.") from error
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            raise self._error(500, event[6:])
        return self._parsed(payload)

    def _parsed(self, payload: dict[str, Any]) -> bytes:
        choice = payload["choices"][0] if payload["choices"] else None
        index = choice["index"] if choice else 0
        progress = payload.pop("prompt_progress", None)
        if progress is not None:
            self._see_prompt(index, progress["total"], progress["cache"])
            return b""
        timings = payload.pop("timings", None)
        usage = payload.pop("usage", None)
        if usage is not None:
            self._see_timings(timings or {})
            self._see_usage(index, usage)
        if not self._created_s:
            self._created_s = payload["created"]
            self._created = b'"created":%d,' % self._created_s
        payload["created"] = self._created_s
        self._last = payload
        if choice is None:
            return b""
        return self._choice(payload, choice, index)

    def _choice(self, payload: dict[str, Any], choice: dict[str, Any], index: int) -> bytes:
        is_last = choice["finish_reason"] is not None
        before = b""
        if index not in self._begun:
            self._begun.add(index)
            before = self._echo(payload, index)
        if is_last:
            self.finish_reason = self._finish(choice)
        elif not (self._plan.is_chat and "role" in choice["delta"]):
            self._num_deltas += 1
            if self._plan.is_output_dropped:
                return before
        return before + self._reshaped(payload, choice, index, is_last)

    def _finish(self, choice: dict[str, Any]) -> str:
        if self._plan.tools.forced and choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"
        if self._plan.is_output_dropped:
            choice["finish_reason"] = "length"
        return str(choice["finish_reason"])

    def _reshaped(self, payload: dict[str, Any], choice: dict[str, Any], index: int, is_last: bool) -> bytes:
        if self._plan.is_output_dropped and not self._plan.is_chat:
            choice["text"] = ""
        given = choice.get("logprobs")
        if given and self._plan.top_logprobs is not None:
            choice["logprobs"] = self._logprobs(given, self._plan.top_logprobs, index)
        if not self._plan.tools.forced:
            if self._plan.is_chat and choice["delta"].get("role") and choice["delta"].get("content") is None:
                choice["delta"]["content"] = ""
            return self._encoded(payload)
        return self._as_call(payload, choice, index, is_last)

    def _as_call(self, payload: dict[str, Any], choice: dict[str, Any], index: int, is_last: bool) -> bytes:
        wrapper = self._calls.get(index)
        if wrapper is None:
            call_id = f"call_{payload['id'].removeprefix('chatcmpl-')}{index}"
            wrapper = self._calls[index] = CallWrapper(call_id, self._plan.tools.forced_name)
        delta = choice["delta"]
        if is_last:
            choice["delta"] = wrapper.last()
        elif not delta.get("role"):
            changed = wrapper.delta(delta.get("content") or "")
            if changed is None:
                return b""
            choice["delta"] = changed
        return self._encoded(payload)

    def _logprobs(self, given: dict[str, Any], num_top: int, index: int) -> dict[str, Any]:
        if self._plan.is_chat:
            return chat_logprobs(given, num_top)
        shaped, self._offsets[index] = completion_logprobs(given, num_top, self._offsets.get(index, 0))
        return shaped

    def _echo(self, payload: dict[str, Any], index: int) -> bytes:
        if not self._plan.echoed:
            return b""
        text = self._plan.echoed[index // self._plan.num_choices]
        choice = {"text": text, "index": index, "logprobs": None, "finish_reason": None}
        return self._encoded({**payload, "choices": [choice]})

    def _encoded(self, payload: dict[str, Any]) -> bytes:
        if self._plan.wants_usage:
            payload = {**payload, "usage": None}
        return b"data: " + ENCODE(payload) + b"\n\n"

    # -- figures

    def _see_prompt(self, index: int, total: int, cached: int) -> None:
        """Note a prompt's length. Raises ContextTooLong before anything was sent to the client."""
        plan = self._plan
        if plan.context_tokens and plan.output_tokens and total + plan.output_tokens > plan.context_tokens:
            raise too_long(plan.context_tokens, total, plan.output_tokens, plan.is_chat)
        self._prompts.setdefault(index // plan.num_choices, (total, cached))
        self._sum_prompts()

    def _see_timings(self, timings: dict[str, Any]) -> None:
        """Add one choice's speculation; llama.cpp leaves these out where nothing was guessed."""
        self._drafted_tokens += timings.get("draft_n", 0)
        self._accepted_tokens += timings.get("draft_n_accepted", 0)

    def _see_usage(self, index: int, usage: dict[str, Any]) -> None:
        """Add one choice's report: llama.cpp reports every choice by itself, with its prompt."""
        details = usage.get("prompt_tokens_details") or {}
        prompt = index // self._plan.num_choices
        seen = self._prompts.get(prompt)
        cached = details.get("cached_tokens", 0)
        # Of choices that share a prompt, the first one computed it.
        self._prompts[prompt] = (usage["prompt_tokens"], min(cached, seen[1]) if seen else cached)
        self._sum_prompts()
        self._num_reports += 1
        self._output_tokens += usage["completion_tokens"]
        if self._num_reports == self._plan.num_choices * self._plan.num_prompts:
            output = 0 if self._plan.is_output_dropped else self._output_tokens
            self._reported = Usage(
                self._prompt_tokens,
                output,
                self._cached_tokens,
                drafted_tokens=self._drafted_tokens,
                accepted_tokens=self._accepted_tokens,
            )

    def _sum_prompts(self) -> None:
        self._prompt_tokens = sum(total for total, _ in self._prompts.values())
        self._cached_tokens = sum(cached for _, cached in self._prompts.values())

    def _done(self) -> bytes:
        if self._reported is None:
            raise EngineFailed("The engine ended its stream without usage.")
        self.is_complete = True
        if not self._plan.wants_usage:
            return DONE
        head = ENCODE({**self._last, "choices": []})
        return b"data: " + head[:-1] + b',"usage":' + encode_usage(self._reported) + b"}\n\n" + DONE


def _is_text_delta(event: bytes) -> bool:
    return event.startswith(_TEXT_START) and _TEXT_GOES_ON in event and not event.endswith(_OBJECT_END)


def too_long(context_tokens: int, prompt_tokens: int, output_tokens: int, is_chat: bool) -> ContextTooLong:
    """The refusal of a prompt that does not fit, naming the endpoint's field."""
    error = ContextTooLong(context_tokens, prompt_tokens, output_tokens)
    error.param = "messages" if is_chat else "prompt"
    return error
