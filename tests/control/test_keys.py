"""Keys: what may be granted, and that the key itself is nowhere."""

from typing import Any

import msgspec
import pytest

from outpace.control.keys import (
    Key,
    entry_of,
    fingerprint,
    key_document,
    new_secret,
    parse_grant,
    require_grantable,
    shown,
)
from outpace.values.errors import InvalidInput, ModelNotAllowed

NOW = 1_000.0
ADMIN = Key(id="key_1", name="a", sha256="x", prefix="p", slot=0, scopes=("inference", "admin"), created_at=0)


def test_a_key_has_32_random_bytes_and_shows_eight_characters() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert first.startswith("op-")
    assert len(first) == 3 + 43
    assert shown(first) == f"{first[:7]}…{first[-4:]}"
    assert len(fingerprint(first)) == 64


def test_a_grant_with_everything() -> None:
    grant = parse_grant(
        {
            "name": " team ",
            "rpm": 60,
            "tpm": 1000,
            "budget_usd": "12.5",
            "models": ["b", "a", "a"],
            "scopes": ["admin", "inference"],
            "expires_in_s": 60,
        },
        NOW,
    )
    assert (grant.name, grant.models, grant.scopes) == ("team", ("a", "b"), ("inference", "admin"))
    assert (grant.rpm, grant.tpm, grant.budget_pusd, grant.expires_at) == (60, 1000, 125 * 10**11, 1_060.0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"rpm": 0}, "rpm"),
        ({"rpm": -1}, "rpm"),
        ({"rpm": True}, "rpm"),
        ({"rpm": 1.5}, "rpm"),
        ({"tpm": 10**13}, "tpm"),
        ({"budget_usd": "lots"}, "budget_usd"),
        ({"budget_usd": "NaN"}, "budget_usd"),
        ({"budget_usd": -1}, "budget_usd"),
        ({"budget_usd": "0.0000000000001"}, "budget_usd"),
        ({"models": []}, "models"),
        ({"models": ["../x"]}, "models"),
        ({"models": "chat"}, "models"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"expires_in_s": 1e300}, "expires_in_s"),
        ({"role": "admin"}, "role"),
        ({"slot": 0}, "slot"),
        ({"tenant_id": 1}, "tenant_id"),
    ],
)
def test_what_is_refused_by_which_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_grant({"name": "k", **fields}, NOW)
    assert (refused.value.param or "").startswith(named)


@pytest.mark.parametrize("document", [None, [], "x", {}])
def test_documents_that_are_no_grant(document: object) -> None:
    with pytest.raises(InvalidInput):
        parse_grant(document, NOW)


@pytest.mark.parametrize(
    ("creator", "fields", "is_granted"),
    [
        ({}, {"scopes": ["admin", "inference"]}, True),
        ({"scopes": ("admin",)}, {}, False),
        ({"scopes": ("admin",)}, {"scopes": ["admin"]}, True),
        ({"models": ("a",)}, {}, False),
        ({"models": ("a",)}, {"models": ["a"]}, True),
        ({"models": ("a",)}, {"models": ["a", "b"]}, False),
        ({"rpm": 10}, {}, False),
        ({"rpm": 10}, {"rpm": 10}, True),
        ({"rpm": 10}, {"rpm": 11}, False),
        ({"budget_pusd": 10**12}, {"budget_usd": 2}, False),
        ({"expires_at": NOW + 10}, {}, False),
        ({"expires_at": NOW + 10}, {"expires_in_s": 5}, True),
    ],
)
def test_nobody_grants_what_they_lack(
    creator: dict[str, Any], fields: dict[str, Any], is_granted: bool
) -> None:
    grant = parse_grant({"name": "k", **fields}, NOW)
    limited = msgspec.structs.replace(ADMIN, **creator)
    if is_granted:
        require_grantable(grant, limited)
        return
    with pytest.raises(ModelNotAllowed, match="cannot grant what it lacks"):
        require_grantable(grant, limited)


def test_neither_snapshot_nor_list_holds_the_key() -> None:
    secret = new_secret()
    key = msgspec.structs.replace(ADMIN, sha256=fingerprint(secret), prefix=shown(secret))
    for told in (
        msgspec.json.encode(entry_of(key)),
        msgspec.json.encode(key_document(key, 0, 0)),
        repr(key).encode(),
    ):
        assert secret.encode() not in told
        assert secret[7:-4].encode() not in told
