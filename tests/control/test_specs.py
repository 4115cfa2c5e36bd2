"""Deployment files: what is read, and what is refused by which name."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.control.documents import read_document
from outpace.control.specs import digest, notes_on, parse_spec, require_price, spec_document
from outpace.values.deployment import External, Replicas
from outpace.values.errors import InvalidInput, OutpaceError
from outpace.values.money import FREE, Price

LISTED = Price(input_pusd=2, output_pusd=3, cached_input_pusd=1)
EXTERNAL = {"base_url": "https://api.example.com/v1", "model": "m", "api_key_env": "KEY"}


def _parse(**document: Any) -> Any:
    return parse_spec(
        {"name": "chat", "model": "m", **document}, lambda model: LISTED if model == "m" else None
    )


def test_every_choice_may_be_auto() -> None:
    document = dict.fromkeys(
        (
            "objective",
            "traffic",
            "engine",
            "precision",
            "kv_precision",
            "speculation",
            "variants",
            "replicas",
            "price",
        ),
        "auto",
    )
    assert _parse(**document) == _parse()
    assert _parse(replicas={"min": 2, "max": "auto"}).replicas == Replicas(min=2, max=2)
    assert _parse(replicas={"min": 0, "idle_s": 30}).replicas == Replicas(min=0, max=1, idle_s=30)


@pytest.mark.parametrize(
    ("given_price", "price"),
    [
        ("auto", LISTED),
        ("free", FREE),
        (None, None),
        (
            {"input_usd_per_mtok": "0.001", "output_usd_per_mtok": 1},
            Price(input_pusd=1_000, output_pusd=10**6, cached_input_pusd=1_000),
        ),
    ],
)
def test_prices(given_price: object, price: Price | None) -> None:
    assert _parse(price=given_price).price == price


def test_a_missing_price_is_the_list_price_and_never_free() -> None:
    assert _parse().price == LISTED
    unlisted = _parse(model="own.gguf")
    assert unlisted.price is None
    require_price(unlisted, "auto")
    with pytest.raises(InvalidInput, match="price: is missing"):
        require_price(unlisted, "required")
    require_price(_parse(price="free"), "required")


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"nome": "x"}, "nome"),
        ({"name": "../etc"}, "name"),
        ({"name": ".hidden"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a\u0000"}, "name"),
        ({"name": "x" * 97}, "name"),
        ({"name": "é"}, "name"),
        ({"name": 3}, "name"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"replicas": {"min": -1}}, "replicas.min"),
        ({"replicas": {"min": 0, "max": 0}}, "replicas.max"),
        ({"replicas": {"min": 0, "idle_s": 0}}, "replicas.idle_s"),
        ({"replicas": {"min": 0, "idle_s": float("nan")}}, "replicas.idle_s"),
        ({"replicas": {"min": 1, "idle_s": 5}}, "replicas.idle_s"),
        ({"replicas": {"starts_per_hour": 0}}, "replicas.starts_per_hour"),
        ({"replicas": {"min": 3, "max": 2}}, "replicas.max"),
        ({"replicas": {"min": 10**9}}, "replicas.max"),
        ({"replicas": {"min": True}}, "replicas.m"),
        ({"replicas": {"standby": -1}}, "replicas.standby.loaded"),
        ({"replicas": {"standby": 65}}, "replicas.standby.loaded"),
        ({"replicas": {"standby": {"imported": 17}}}, "replicas.standby.imported"),
        ({"replicas": {"standby": {"imported": -1}}}, "replicas.standby.imported"),
        ({"replicas": {"standby": {"cached": 1}}}, "replicas.standby"),
        ({"replicas": {"standby": {"warm": 1}}}, "replicas.standby"),
        ({"replicas": {"standby": "all"}}, "replicas.standby"),
        ({"external": EXTERNAL, "model": None, "replicas": {"standby": 1}}, "replicas.standby"),
        ({"replicas": {"most": 1}}, "replicas"),
        ({"replicas": 2}, "replicas"),
        ({"objective": {"ttft_ms": -1}}, "objective.ttft_ms"),
        ({"objective": {"percentile": 100}}, "objective.percentile"),
        ({"traffic": {"rate": float("nan")}}, "traffic.rate"),
        ({"traffic": {"rate": float("inf")}}, "traffic.rate"),
        ({"kv_precision": "fp 8"}, "kv_precision"),
        ({"kv_precision": 8}, "kv_precision"),
        ({"external": EXTERNAL, "model": None, "kv_precision": "q8_0"}, "kv_precision"),
        ({"external": EXTERNAL, "model": None, "precision": "q8_0"}, "precision"),
        ({"speculation": "n gram"}, "speculation"),
        ({"speculation": "draft:"}, "speculation"),
        ({"variants": "two"}, "variants"),
        ({"variants": True}, "variants"),
        ({"external": EXTERNAL, "model": None, "variants": "off"}, "variants"),
        ({"external": EXTERNAL, "model": None, "speculation": "ngram"}, "speculation"),
        ({"engine": "x/y"}, "engine"),
        ({"price": "cheap"}, "price"),
        ({"price": {"input_usd_per_mtok": 1}}, "price.output_usd_per_mtok"),
        ({"price": {"input_usd_per_mtok": -1, "output_usd_per_mtok": 1}}, "price.input_usd_per_mtok"),
        ({"engine_settings": {"a": [1]}}, "engine_settings"),
        ({"engine_settings": {str(n): 1 for n in range(65)}}, "engine_settings"),
        ({"external": EXTERNAL}, "model"),
        ({"external": EXTERNAL, "model": None, "engine": "llamacpp"}, "engine"),
        ({"engine": "external", "model": None}, "external"),
    ],
)
def test_what_is_refused_by_which_name(document: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _parse(**document)
    assert (refused.value.param or "").startswith(named)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://h/v1",
        "file:///etc/passwd",
        "http://",
        "http://h:99999",
        "http://h:0",
        "http://user:pw@h/v1",
        "http://h/v1?x=1",
        "http://h/v1#x",
        "http:\\\\h",
        "http://h /v1",
        "http://[::1",
        "http://h/" + "x" * 2000,
    ],
)
def test_addresses_that_are_not_a_base_url(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"external\.base_url"):
        _parse(model=None, external={**EXTERNAL, "base_url": url})


def test_an_external_deployment_needs_no_model_and_names_its_variable() -> None:
    spec = _parse(model=None, external=EXTERNAL)
    assert (spec.engine, spec.external, spec.price) == ("external", External(**EXTERNAL), None)
    with pytest.raises(InvalidInput, match="api_key_env"):
        _parse(model=None, external={**EXTERNAL, "api_key_env": "sk-live 123"})


@given(
    st.fixed_dictionaries(
        {"name": st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), "model": st.just("m")},
        optional={
            "replicas": st.integers(0, 64).map(lambda n: {"min": n}),
            "precision": st.sampled_from(["auto", "q4_0"]),
            "price": st.sampled_from(
                ["free", None, {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": "1.25"}]
            ),
            "engine_settings": st.dictionaries(st.text("abc", min_size=1), st.integers(0, 9), max_size=3),
        },
    )
)
def test_what_is_told_of_a_spec_parses_to_the_same_spec(document: dict[str, Any]) -> None:
    spec = parse_spec(document, lambda _: LISTED)
    assert parse_spec(spec_document(spec), lambda _: LISTED) == spec


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_document_does_worse_than_a_refusal(document: object) -> None:
    with pytest.raises(OutpaceError):
        parse_spec(document, lambda _: None)


def test_replicas_are_interchangeable_unless_what_runs_changes() -> None:
    base = digest(_parse())
    assert digest(_parse(price="free", replicas={"min": 3}, traffic={"rate": 2})) == base
    for change in ({"model": "other"}, {"precision": "q8_0"}, {"engine_settings": {"parallel": 2}}):
        assert digest(_parse(**change)) != base


def test_what_has_no_effect_yet_is_told() -> None:
    assert notes_on(_parse()) == []
    told = notes_on(_parse(objective={"ttft_ms": 100}))
    assert [note.split()[0] for note in told] == ["objective"]
    assert notes_on(_parse(objective={"ttft_ms": 100}, replicas={"min": 1, "max": 3})) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nmodel: b\nmodel: c", "model: is there twice, again in line 3"),
        ("a: &x [1]\nb: *x", "line 1: anchors and aliases"),
        ("name: " + "[" * 50_000, "nested deeper"),
        ("name: a\n  model: b", "not YAML"),
        ("- name: a", "is a table"),
        ("", "is a table"),
        ("1: 2", "a key must be a text"),
        ("name: 2026-99-99", "cannot be read"),
        ("name: !!python/object/apply:os.system [id]", "not YAML"),
        ("name: \x00", "not YAML"),
    ],
)
def test_files_that_are_no_deployment(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_document(text)


def test_a_file_that_is_too_large_is_not_read() -> None:
    with pytest.raises(OutpaceError, match="64 KiB"):
        read_document("name: " + "x" * 70_000)


def test_yaml_and_json_are_both_read() -> None:
    assert read_document('{"name": "a", "model": "b"}') == read_document("name: a\nmodel: b\n")


def test_a_bare_off_of_yaml_means_off_and_variants_change_no_replica() -> None:
    off = parse_spec({"name": "a", "model": "m", "variants": False, "speculation": False}, lambda model: None)
    assert (off.variants, off.speculation) == ("off", "off")
    plain = parse_spec({"name": "a", "model": "m", "variants": "auto"}, lambda model: None)
    assert digest(plain) == digest(msgspec.structs.replace(plain, variants="off"))
