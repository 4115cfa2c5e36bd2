"""API keys: made from 32 random bytes, shown once, kept as SHA-256; what a new one may be allowed. Pure."""

import hashlib
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from outpace.control.specs import check_name
from outpace.values.errors import InvalidInput, ModelNotAllowed
from outpace.values.money import format_usd, parse_usd
from outpace.values.snapshot import KeyEntry

PREFIX = "op-"
SCOPES = ("inference", "admin")
_RANDOM_BYTES = 32
# Of the random part, what is kept in clear so that a person can tell keys apart.
_SHOWN_FIRST = 4
_SHOWN_LAST = 4
_MOST_PER_MINUTE = 10**12
_LONGEST_LIFE_S = 10 * 366 * 86_400
_MOST_MODELS = 200


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as the store has it; the key itself is nowhere."""

    id: str
    name: str
    sha256: str
    # First and last characters, such as `op-Ab12…9xYz`.
    prefix: str
    # Row in the counters file; given once, never to another key.
    slot: int
    scopes: tuple[str, ...]
    # None allows every model.
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget_pusd: int | None = None
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_valid(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a new key shall be allowed."""

    name: str
    scopes: tuple[str, ...] = ("inference",)
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    budget_pusd: int | None = None
    expires_at: float | None = None


_PerMinute = Annotated[int, Meta(ge=1, le=_MOST_PER_MINUTE)]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    rpm: _PerMinute | None = None
    tpm: _PerMinute | None = None
    budget_usd: str | int | float | None = None
    models: Annotated[list[str], Meta(min_length=1, max_length=_MOST_MODELS)] | None = None
    scopes: Annotated[list[str], Meta(min_length=1, max_length=len(SCOPES))] | None = None
    expires_in_s: Annotated[float, Meta(gt=0, le=_LONGEST_LIFE_S)] | None = None


def new_secret() -> str:
    """A new key. Whoever calls this shows it once and keeps only `fingerprint`."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def fingerprint(secret: str) -> str:
    """SHA-256 in hex; 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def shown(secret: str) -> str:
    """What of a key may be shown for ever."""
    return f"{secret[: len(PREFIX) + _SHOWN_FIRST]}…{secret[-_SHOWN_LAST:]}"


def new_id(prefix: str = "key_") -> str:
    """An id for receipts and lists; it says nothing about the key."""
    return f"{prefix}{secrets.token_hex(6)}"


def parse_grant(document: object, now: float) -> Grant:
    """The grant in an admin request. Raises InvalidInput naming the field."""
    try:
        fields = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error
    if not fields.name.strip() or not fields.name.isprintable():
        raise InvalidInput("name", "1 to 100 printable characters")
    unknown = sorted(set(fields.scopes or ()) - set(SCOPES))
    if unknown:
        raise InvalidInput("scopes", f"{unknown[0][:40]!r} is not known; there are {', '.join(SCOPES)}")
    return Grant(
        name=fields.name.strip(),
        scopes=tuple(scope for scope in SCOPES if scope in (fields.scopes or ("inference",))),
        models=None
        if fields.models is None
        else tuple(sorted({check_name(m, "models") for m in fields.models})),
        rpm=fields.rpm,
        tpm=fields.tpm,
        budget_pusd=None if fields.budget_usd is None else parse_usd(str(fields.budget_usd), "budget_usd"),
        expires_at=None if fields.expires_in_s is None else now + fields.expires_in_s,
    )


def require_grantable(grant: Grant, creator: Key) -> None:
    """Nobody grants what they lack. Raises ModelNotAllowed naming what is too much."""
    lacking = sorted(set(grant.scopes) - set(creator.scopes))
    if lacking:
        raise _too_much(f"scope {lacking[0]!r}")
    if creator.models is not None:
        beyond = sorted(set(grant.models or ()) - set(creator.models))
        if grant.models is None or beyond:
            raise _too_much(f"model {beyond[0]!r}" if beyond else "every model")
    for name in ("rpm", "tpm", "budget_pusd", "expires_at"):
        limit, wanted = getattr(creator, name), getattr(grant, name)
        if limit is not None and (wanted is None or wanted > limit):
            raise _too_much(f"{name.removesuffix('_pusd').removesuffix('_at')} beyond its own")


def entry_of(key: Key) -> KeyEntry:
    """The key as the gateway knows it."""
    return KeyEntry(
        id=key.id,
        name=key.name,
        slot=key.slot,
        scopes=key.scopes,
        models=key.models,
        rpm=key.rpm,
        tpm=key.tpm,
        budget_pusd=key.budget_pusd,
        expires_at=key.expires_at,
    )


def key_document(key: Key, spent_pusd: int, reserved_pusd: int) -> dict[str, Any]:
    """The key as the admin API tells it."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "models": None if key.models is None else list(key.models),
        "rpm": key.rpm,
        "tpm": key.tpm,
        "budget_usd": None if key.budget_pusd is None else format_usd(key.budget_pusd),
        "spent_usd": format_usd(spent_pusd),
        "reserved_usd": format_usd(reserved_pusd),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _too_much(what: str) -> ModelNotAllowed:
    return ModelNotAllowed(f"A key cannot grant what it lacks: {what}.")


def _refusal(message: str) -> InvalidInput:
    """msgspec's words with the field in front."""
    if "unknown field" in message:
        field = message.rpartition("unknown field `")[2].rstrip("`")
        known = ", ".join(field.name for field in msgspec.structs.fields(_Document))
        return InvalidInput(field[:100], f"is not known; a key has {known}")
    problem, _, path = message.partition(" - at `$.")
    if "required field" in problem:
        return InvalidInput(problem.rpartition("`")[0].rpartition("`")[2], "is missing")
    return InvalidInput(path.rstrip("`") or None, problem[:1].lower() + problem[1:])
