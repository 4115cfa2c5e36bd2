"""Engines' errors: the caller's fault stays one, ours is told without addresses and keys."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.refusals import scrub, translate
from outpace.engines.registry import engine


def error(message: str, **fields: object) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (400, 400, "bad_thing"),
        (401, 502, "upstream_error"),
        (403, 502, "upstream_error"),
        (404, 502, "upstream_error"),
        (429, 503, "overloaded"),
        (500, 502, "upstream_error"),
        (503, 503, "overloaded"),
    ],
)
def test_status_and_code(status: int, shown: int, code: str) -> None:
    translated = translate(status, error("no", code="bad_thing", param="stop"))
    assert (translated.status, translated.code) == (shown, code)
    assert translated.param == ("stop" if status == 400 else None)


def test_a_refusal_keeps_its_words_without_addresses_and_keys() -> None:
    told = translate(
        400,
        error(
            "bad key sk-abcdef123456 at https://api.example.com/v1/x or 10.0.0.7:8080 in /opt/app/main.py: no stop"
        ),
    ).message
    assert told.endswith("no stop")
    for secret in ("abcdef", "example.com", "10.0.0.7", "/opt/app"):
        assert secret not in told


@given(st.binary(max_size=300), st.integers(400, 599))
def test_any_body_becomes_one_bounded_line(body: bytes, status: int) -> None:
    told = translate(status, body).message
    assert told
    assert "\n" not in told
    assert len(told) < 600


@given(st.text(max_size=2_000))
def test_scrub_is_bounded(text: str) -> None:
    assert len(scrub(text)) <= 400 + 8 * 200


def test_llamacpp_names_both_numbers_and_the_field() -> None:
    body = error(
        "request (631 tokens) exceeds",
        code=400,
        type="exceed_context_size_error",
        n_prompt_tokens=631,
        n_ctx=512,
    )
    refusal = engine("llamacpp").error(400, body)
    assert (refusal.code, refusal.param) == ("context_length_exceeded", "messages")
    assert "512" in refusal.message
    assert "631" in refusal.message
    schema = engine("llamacpp").error(
        400,
        error(
            "Unable to generate parser for this template. Automatic parser generation failed: "
            "JSON schema error at #: unrecognized type foo"
        ),
    )
    assert (schema.status, schema.param) == (400, "response_format")
    assert schema.message == "JSON schema error at #: unrecognized type foo"
