"""Who asks: the key in the headers, looked up by its hash. The same work for right and wrong keys."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from outpace.values.clock import Clock
from outpace.values.errors import InvalidKey, ModelNotAllowed, RateLimited
from outpace.values.snapshot import KeyEntry, Snapshot

_LONGEST_KEY_BYTES = 512
_KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
_BAD_KEYS_PER_S = 20.0
_BAD_KEYS_BURST = 40.0
_MOST_ADDRESSES = 4_096


class Keys:
    """Finds the key of a request; slows down addresses that keep guessing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guesses: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def authenticate(
        self, snapshot: Snapshot, headers: Iterable[tuple[bytes, bytes]], address: str
    ) -> KeyEntry:
        """The entry of the presented key. Raises InvalidKey, RateLimited for guessers, ModelNotAllowed by scope."""
        secret = presented_key(headers)
        digest = hashlib.sha256(secret or b"").hexdigest()
        key = snapshot.keys.get(digest)
        if secret is None or key is None or self._is_expired(key):
            self._count_guess(address)
            raise InvalidKey
        if "inference" not in key.scopes:
            raise ModelNotAllowed(
                "This key has no `inference` scope; use one made with `outpace keys create`."
            )
        return key

    def _is_expired(self, key: KeyEntry) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock.wall_s()

    def _count_guess(self, address: str) -> None:
        now_s = self._clock.monotonic_s()
        left, seen_s = self._guesses.pop(address, (_BAD_KEYS_BURST, now_s))
        left = min(_BAD_KEYS_BURST, left + (now_s - seen_s) * _BAD_KEYS_PER_S) - 1.0
        self._guesses[address] = (max(left, 0.0), now_s)
        if len(self._guesses) > _MOST_ADDRESSES:
            self._guesses.popitem(last=False)
        if left < 0:
            raise RateLimited("requests", "Too many requests with invalid API keys from this address.", 1.0)


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The one key in the headers; None when there is none, more than one, or a malformed one."""
    found = [(name, value) for name, value in headers if name in _KEY_HEADERS]
    if len(found) != 1:
        return None
    name, value = found[0]
    if name == b"authorization":
        scheme, _, value = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
    value = value.strip()
    if not value or len(value) > _LONGEST_KEY_BYTES:
        return None
    return value
