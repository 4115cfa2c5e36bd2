"""llama.cpp's whole JSON answer of one choice, typed, in the contract's form: nothing more, nothing less."""

from typing import Any

import msgspec

from outpace.engines.readers import AnswerReader
from outpace.engines.wire import WireUsage
from outpace.values.errors import EngineFailed


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class _ChatChoice(msgspec.Struct):
    index: int
    message: _Message
    finish_reason: str
    logprobs: None = None


class _TextChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str
    logprobs: None = None


class _Answer(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    usage: WireUsage
    system_fingerprint: str | None = None


class _ChatAnswer(_Answer, kw_only=True):
    choices: list[_ChatChoice]


class _TextAnswer(_Answer, kw_only=True):
    choices: list[_TextChoice]


_CHAT = msgspec.json.Decoder(_ChatAnswer)
_TEXT = msgspec.json.Decoder(_TextAnswer)
_ENCODE = msgspec.json.Encoder().encode


class ChatAnswerReader(AnswerReader):
    """One choice of a chat."""

    def _answered(self, body: bytes) -> bytes:
        return self._shaped(_CHAT, body)

    def _shaped(self, decoder: "msgspec.json.Decoder[Any]", body: bytes) -> bytes:
        try:
            answer = decoder.decode(body)
        except msgspec.DecodeError as error:
            raise EngineFailed("The engine's answer is not of the expected form.") from error
        if not answer.choices:
            raise EngineFailed("The engine's answer holds no choices.")
        self.usage = answer.usage.value()
        self.finish_reason = answer.choices[0].finish_reason
        self.is_complete = True
        return _ENCODE(answer)


class TextAnswerReader(ChatAnswerReader):
    """One choice of a completion."""

    def _answered(self, body: bytes) -> bytes:
        return self._shaped(_TEXT, body)
