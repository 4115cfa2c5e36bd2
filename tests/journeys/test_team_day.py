"""JOURNEY a team's ordinary day: keys, limits, usage in money, a receipt for one request."""

from decimal import Decimal
from typing import Any

import pytest
from openai import AuthenticationError, PermissionDeniedError, RateLimitError
from openai.types.chat import ChatCompletionMessageParam
from tests.journeys.conftest import CHAT, EMBED, Platform, until

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
USD_PER_MTOK_IN, USD_PER_MTOK_OUT = Decimal("0.01"), Decimal("0.02")


def test_what_a_key_used_is_on_its_bill_to_the_token(platform: Platform) -> None:
    made = platform.json("keys", "create", "--name", "search-team", "--budget-usd", "50")
    with platform.client(made["key"]) as team:
        raw = team.chat.completions.with_raw_response.create(model=CHAT, messages=HELLO, max_tokens=8)
        usage = raw.parse().usage
    request_id = raw.headers["x-request-id"]
    assert usage is not None
    cost = (usage.prompt_tokens * USD_PER_MTOK_IN + usage.completion_tokens * USD_PER_MTOK_OUT) / 10**6

    until(lambda: rows_of(platform, made["id"]))
    receipt = platform.json("receipts", request_id)
    assert receipt["key_id"] == made["id"]
    assert receipt["outcome"] == "completed"
    assert receipt["status"] == 200
    row = rows_of(platform, made["id"])[0]
    assert (row["model"], row["requests"]) == (CHAT, 1)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    # The second request of this prompt may find its prefix in the cache, which is cheaper, never dearer.
    assert Decimal(receipt["cost_usd"]) == Decimal(row["cost_usd"]) <= cost
    listed = {key["id"]: key for key in platform.json("keys", "list")}
    assert Decimal(listed[made["id"]]["budget_usd"]) == 50
    assert made["key"] not in str(listed)


def test_a_spent_budget_is_told_so_that_sdks_do_not_retry(platform: Platform) -> None:
    made = platform.json("keys", "create", "--name", "poor", "--budget-usd", "0.0000001")
    wait_for_key(platform, made["key"])
    with platform.client(made["key"], max_retries=2) as poor, pytest.raises(RateLimitError) as refused:
        poor.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=50)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_limit_names_itself_and_when_to_come_back(platform: Platform) -> None:
    made = platform.json("keys", "create", "--name", "slow", "--rpm", "1")
    with platform.client(made["key"]) as slow:
        wait_for_key(platform, made["key"])
        slow.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1)
        with pytest.raises(RateLimitError) as refused:
            slow.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1)
    assert refused.value.code == "rate_limit_exceeded"
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 60


def test_a_key_sees_and_uses_only_its_models(platform: Platform) -> None:
    made = platform.json("keys", "create", "--name", "embedder", "--models", EMBED)
    with platform.client(made["key"]) as embedder:
        wait_for_key(platform, made["key"])
        assert [model.id for model in embedder.models.list()] == [EMBED]
        with pytest.raises(PermissionDeniedError):
            embedder.chat.completions.create(model=CHAT, messages=HELLO, max_tokens=1)


def test_a_revoked_key_is_refused_within_5_s(platform: Platform) -> None:
    made = platform.json("keys", "create", "--name", "leaver")
    with platform.client(made["key"]) as leaver:
        wait_for_key(platform, made["key"])
        assert platform.json("keys", "revoke", made["id"])["id"] == made["id"]
        until(lambda: is_refused(platform, made["key"]), deadline_s=5.0)
        with pytest.raises(AuthenticationError):
            leaver.models.list()


def test_an_unknown_receipt_and_key_are_refused_by_name(platform: Platform) -> None:
    assert "req-none" in platform.run("receipts", "req-none", exit_code=1)
    assert "key_none" in platform.run("keys", "revoke", "key_none", exit_code=1)


def rows_of(platform: Platform, key_id: str) -> list[dict[str, Any]]:
    """The key's usage; empty until the journal was read."""
    return [row for row in platform.json("usage") if row["key_id"] == key_id]


def wait_for_key(platform: Platform, key: str) -> None:
    """A new key is known to the gateway with its next look at the snapshot."""
    until(lambda: not is_refused(platform, key), deadline_s=5.0)


def is_refused(platform: Platform, key: str) -> bool:
    """The gateway does not know this key."""
    with platform.client(key) as client:
        try:
            client.models.list()
        except AuthenticationError:
            return True
        return False
