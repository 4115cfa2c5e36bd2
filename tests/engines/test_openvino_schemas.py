"""Which counts in a schema are refused before anything is tried."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.engines.openvino_schemas import MOST_REPEATED, over_bound


@pytest.mark.parametrize("name", ["maxLength", "minItems", "maxProperties"])
def test_a_count_that_no_answer_could_reach_is_refused_by_name(name: str) -> None:
    deep = {"anyOf": [{"type": "null"}, {"properties": {"x": {"items": {name: MOST_REPEATED + 1}}}}]}
    assert over_bound(json.dumps(deep)).startswith(f"the schema's {name} of {MOST_REPEATED + 1} ")


def test_counts_within_the_bound_and_fields_of_such_a_name_are_none_of_its_business() -> None:
    fine = {"type": "string", "maxLength": MOST_REPEATED, "minLength": 1}
    assert over_bound(json.dumps(fine)) == ""
    named = {"properties": {"maxLength": {"type": "integer", "maximum": 10**9}}, "const": 10**9}
    assert over_bound(json.dumps(named)) == ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["maxLength", "items", "anyOf"]), inner, max_size=3)
    ),
)


@given(_JSON)
def test_any_json_gets_an_answer(schema: object) -> None:
    assert isinstance(over_bound(json.dumps(schema)), str)
