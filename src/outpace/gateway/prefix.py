"""What a prompt begins with, as a short hash: requests that share it are best served where its cache is.

Conversations keep their system text and first user message, so these name them from turn to turn without any state. The
key is part of the hash: no tenant's prefix is routed by another's.
"""

import hashlib
from functools import lru_cache

import msgspec

from outpace.values.requests import ChatRequest, CompletionRequest, EngineBound, UserMessage

_PREFIX_CHARS = 1_024
_PREFIX_IDS = 256
_HASH_BYTES = 8


def prefix_of(request: EngineBound, key_id: str, session: bytes | None) -> bytes | None:
    """The hash of the prefix; None for requests without one."""
    if isinstance(request, ChatRequest):
        named = session or (request.prompt_cache_key or "").encode()
        return _hash(key_id, named or msgspec.json.encode(_beginning(request)))
    if isinstance(request, CompletionRequest):
        return _hash(key_id, session or _start(request.prompt))
    return None


@lru_cache(maxsize=4_096)
def cache_salt(key_id: str) -> str:
    """What keeps a tenant's cached prefixes apart in engines that can; tells nothing about the key."""
    return hashlib.blake2b(key_id.encode(), digest_size=16, person=b"outpace-cache").hexdigest()


def _beginning(request: ChatRequest) -> list[object]:
    """Messages up to and with the first user's."""
    for number, message in enumerate(request.messages, 1):
        if isinstance(message, UserMessage):
            return list(request.messages[:number])
    return list(request.messages[:1])


def _start(prompt: object) -> bytes:
    if isinstance(prompt, str):
        return prompt[:_PREFIX_CHARS].encode()
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    if isinstance(first, str | list):
        return _start(first)
    return msgspec.json.encode(prompt[:_PREFIX_IDS] if isinstance(prompt, list) else prompt)


def _hash(key_id: str, beginning: bytes) -> bytes:
    digest = hashlib.blake2b(key_id.encode(), digest_size=_HASH_BYTES)
    digest.update(b"\0")
    digest.update(beginning)
    return digest.digest()
