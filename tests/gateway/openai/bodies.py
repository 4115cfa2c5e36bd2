"""Bodies to parse, and what parsing them says."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from outpace.gateway.openai.parse import parse_chat, parse_completion
from outpace.values.errors import InvalidInput
from outpace.values.requests import ChatRequest

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> bytes:
    """A good chat body with these fields added or replaced."""
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def parsed(**fields: Any) -> ChatRequest:
    return parse_chat(chat(**fields))


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", **fields}).encode()


def refused(raw: bytes, parse: Callable[[bytes], object] = parse_chat) -> InvalidInput:
    """The refusal of a body; it must be one, with status 400 and a message of bounded length."""
    with pytest.raises(InvalidInput) as caught:
        parse(raw)
    assert caught.value.status == 400
    assert len(caught.value.message) < 600
    return caught.value


def refused_chat(**fields: Any) -> InvalidInput:
    return refused(chat(**fields))


def refused_completion(**fields: Any) -> InvalidInput:
    return refused(completion(**fields), parse_completion)
