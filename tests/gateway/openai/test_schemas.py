"""JSON schemas and their patterns: limits that hold in linear time, and honest schemas that pass."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.openai.bodies import parsed, refused_chat

from outpace.gateway.openai.patterns import check_pattern
from outpace.gateway.openai.schemas import check_schema
from outpace.values.errors import InvalidInput

LINKED = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
TREE = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}, "up": {"$ref": "#"}},
    "$defs": {"node": {"anyOf": [{"type": "null"}, LINKED]}},
}
TWICE = {
    "properties": {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}},
    "$defs": {"x": {"type": "string"}},
}
NAMED_LIKE_KEYWORDS = {
    "properties": {"enum": {"type": "string"}, "pattern": {"type": "string"}, "$ref": {"type": "string"}}
}


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


BOMBS: dict[str, Any] = {
    "depth": _nested(400),
    "self": {"$ref": "#"},
    "pair": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "through anyOf": {"$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}},
    "through allOf and not": {"$defs": {"a": {"allOf": [{"not": {"$ref": "#/$defs/a"}}]}}},
    "nowhere": {"properties": {"a": {"$ref": "#/$defs/none"}}},
    "anchor": {"properties": {"a": {"$ref": "#name"}}},
    "remote": {"$ref": "http://127.0.0.1/schema.json"},
    "file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "dynamic": {"$dynamicRef": "#node"},
    "enum": {"enum": list(range(100_000))},
    "maxItems": {"type": "array", "maxItems": 10**9},
    "minLength": {"type": "string", "minLength": 10**8},
    "huge number": {"type": "string", "minLength": 10**300},
    "negative": {"type": "string", "minLength": -1},
    "many properties": {"properties": {str(index): {"type": "string"} for index in range(10_000)}},
    "wide list": {"anyOf": [{}] * 10_000},
    "list of numbers": {"examples": list(range(100_000))},
    "pattern": {"type": "string", "pattern": "(a+)+b"},
    "patternProperties": {"patternProperties": {"(a+)+": {}}},
    "long pattern": {"type": "string", "pattern": "a" * 10_000},
}


@pytest.mark.parametrize("schema", BOMBS.values(), ids=BOMBS.keys())
def test_schema_bombs_are_refused(schema: dict[str, Any]) -> None:
    began_s = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        check_schema(schema, "here")
    assert caught.value.param == "here"
    assert time.process_time() - began_s < 1.0


@pytest.mark.parametrize("schema", [None, {}, TREE, TWICE, NAMED_LIKE_KEYWORDS, _nested(10)])
def test_honest_schemas_pass(schema: dict[str, Any] | None) -> None:
    check_schema(schema, "here")


def test_schemas_of_tools_and_formats_are_checked_where_they_stand() -> None:
    bomb = {"enum": list(range(5_000))}
    assert refused_chat(
        tools=[{"type": "function", "function": {"name": "a", "parameters": bomb}}]
    ).param == ("tools[0].function.parameters")
    json_schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": bomb}}
    assert refused_chat(response_format=json_schema).param == "response_format.json_schema.schema"
    assert parsed(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": TREE}})


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b", "(?<name>a+)+", "(?=a+)+", "(a*)*", "((a+))+", "(?:a+|b)+",
        "(a|b+){5}", "(a+){2,}", r"(\w+\s?)*", "(.*,?)*", "(a+?)+",
        "(a{1,})+", "(((a+)b?)c?)*", "((a+,)+)+", "(a{50}){50}", "a{3000}", "((a{20}){20}){20}", "(" * 20 + ")" * 20,
    ],
)  # fmt: skip
def test_explosive_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        check_pattern(pattern, "here")


@pytest.mark.parametrize(
    "pattern",
    [
        "", "^[a-z0-9_-]+$", r"^\d{4}-\d{2}-\d{2}$", r"^[\w.+-]+@([\w-]+\.)+[\w-]{2,4}$", r"^\d+(,\d+)*$",
        "^(foo|bar)+$", "(a+)?", "(a{2}){3}", r"\(a+\)+", "[(a+)]+", "[]+)]*x", "a{,}", "x{a}", "^#([A-Fa-f0-9]{6})$",
        r"^(([0-9]{1,3})\.){3}[0-9]{1,3}$", "a+b+c*", ")", "(", "\\",
    ],
)  # fmt: skip
def test_honest_patterns_pass(pattern: str) -> None:
    check_pattern(pattern, "here")


@given(pattern=st.text(alphabet="ab()[]{}*+?|\\,1^.", max_size=60))
def test_any_pattern_is_accepted_or_refused(pattern: str) -> None:
    try:
        check_pattern(pattern, "here")
    except InvalidInput:
        return


_SCHEMAS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["#", "#/$defs/a", "#/a/0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["$ref", "$defs", "a", "anyOf", "not", "enum", "pattern", "maxItems", "properties"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(schema=_SCHEMAS)
def test_any_schema_is_accepted_or_refused(schema: object) -> None:
    try:
        check_schema(schema, "here")
    except InvalidInput:
        return
