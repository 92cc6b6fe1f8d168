from __future__ import annotations

from typing import Any

import pytest

from twofold.migrate.answers import Answer, Ask, Call
from twofold.migrate.judging import agreement, judge, overlap, validity

TOOL = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"properties": {"place": {"type": "string"}}, "required": ["place"]}},
}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "required": ["x"]}}}


def called(name: str, arguments: str) -> Answer:
    return Answer(calls=(Call(name, arguments),))


def test_answers_are_alike_to_the_letter_or_but_for_case_spaces_and_closing_signs() -> None:
    first = Answer(text="It is 7215.")
    assert agreement(first, first).exact
    second = agreement(first, Answer(text="it  is 7215"))
    assert (second.exact, second.normalised, second.overlap) == (False, True, 1.0)
    assert agreement(first, Answer(text="No.")).overlap == 0.0
    assert overlap("a b c d", "a b x y") == 0.5


def test_calls_are_the_same_whatever_the_order_and_spacing_of_their_arguments() -> None:
    first, second = called("f", '{"a": 1, "b": 2}'), called("f", '{"b":2.0,"a":1}')
    assert agreement(first, second).calls is True
    assert agreement(first, called("f", '{"a": 1}')).calls is False
    assert agreement(first, Answer(text="No.")).calls is False
    assert agreement(Answer(text="a"), Answer(text="a")).calls is None


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        (called("lookup", '{"place": "here"}'), True),
        (called("lookup", '{"place": 3}'), False),
        (called("lookup", "{}"), False),
        (called("lookup", '{"place": "h'), False),
        (called("lookup", "[1]"), False),
        (called("other", "{}"), False),
        (Answer(text="No tool."), None),
    ],
)
def test_a_call_is_valid_when_the_tool_was_offered_and_its_arguments_fit(answer: Answer, valid: bool | None) -> None:
    found = validity({"tools": [TOOL]}, answer)
    assert found.tools is valid
    assert bool(found.problems) == (valid is False)


def test_no_call_is_invalid_where_one_is_required() -> None:
    assert validity({"tools": [TOOL], "tool_choice": "required"}, Answer(text="No.")).tools is False


@pytest.mark.parametrize(
    ("body", "text", "valid"),
    [
        ({"response_format": FORM}, '{"x": 1}', True),
        ({"response_format": FORM}, "{}", False),
        ({"response_format": FORM}, "It is 7.", False),
        ({"response_format": {"type": "json_object"}}, "{}", True),
        ({"response_format": {"type": "json_object"}}, "[]", False),
        ({"response_format": {"type": "text"}}, "[]", None),
        ({"response_format": "json"}, "[]", None),
        ({}, "[]", None),
    ],
)
def test_a_form_is_judged_where_one_was_asked_for(body: dict[str, Any], text: str, valid: bool | None) -> None:
    assert validity(body, Answer(text=text)).form is valid


def test_a_failure_is_neither_alike_nor_valid() -> None:
    ask = Ask(line=1, kind="chat", body={"messages": [{}], "tools": [TOOL]})
    pair = judge(ask, Answer(text="a"), Answer(failure="timeout: x"))
    assert pair.agreement is None
    assert pair.new_validity.tools is None
