from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.migrate.json_schema import check

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (PERSON, {"name": "a", "age": 3}, {"age": 3}),
        (PERSON, {"name": "a"}, {"name": ""}),
        (PERSON, {"name": "a", "age": 3.0}, {"name": "a", "age": -1}),
        (PERSON, {"name": "a"}, {"name": "a", "other": 1}),
        ({"type": ["string", "null"]}, None, 1),
        ({"type": "integer"}, 1, True),
        ({"type": "number"}, 1.5, "1.5"),
        ({"enum": ["a", 1]}, 1.0, "b"),
        ({"const": {"a": [1]}}, {"a": [1]}, {"a": [2]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "a", 1),
        ({"oneOf": [{"minimum": 0}, {"maximum": 10}]}, 11, 5),
        ({"allOf": [{"minimum": 0}, {"maximum": 10}]}, 5, 11),
        ({"not": {"type": "string"}}, 1, "a"),
        ({"items": {"type": "string"}, "minItems": 1, "maxItems": 2}, ["a"], ["a", "b", "c"]),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1], [1, 1]),
        ({"uniqueItems": True}, [1, "1"], [1, 1.0]),
        ({"pattern": "^a+$", "maxLength": 3}, "aa", "ab"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 2, "multipleOf": 0.5}, 1.5, 2),
        ({"additionalProperties": {"type": "integer"}, "maxProperties": 2}, {"a": 1}, {"a": "b"}),
        (TREE, [[], [[]]], [[], [1]]),
        (True, 1, ...),
        (False, ..., 1),
    ],
)
def test_what_fits_has_no_errors_and_what_does_not_has_some(schema: Any, good: Any, bad: Any) -> None:
    if good is not ...:
        assert check(schema, good).errors == []
    if bad is not ...:
        assert check(schema, bad).errors
    assert check(schema, good).unchecked == set()


def test_an_error_names_its_place() -> None:
    schema = {"properties": {"list": {"items": {"properties": {"n": {"type": "integer"}}}}}}
    assert check(schema, {"list": [{}, {"n": "x"}]}).errors == ['$.list[1].n: "x" is not of type integer']


def test_what_is_not_looked_at_is_named() -> None:
    schema = {
        "format": "date",
        "if": {},
        "$ref": "https://example.com/x",
        "title": "t",
        "minLength": "3",
        "pattern": "(",
    }
    found = check(schema, "2020")
    assert found.errors == []
    assert {word.split()[0] for word in found.unchecked} == {"format", "if", "$ref", "minLength", "pattern"}


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"not": {"$ref": "#"}}, {"$ref": "#/none"}]
)
def test_schemas_that_go_round_come_to_an_end(schema: Any) -> None:
    assert check(schema, {}).unchecked


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "enum", "items", "required", "properties", "anyOf", "minimum", "pattern", "$ref", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(schema=VALUES, value=VALUES)
def test_no_schema_makes_it_fall_over(schema: Any, value: Any) -> None:
    check(schema, value)
