from __future__ import annotations

import json

import pytest

from twofold.api import LLM
from twofold.migrate.answers import Ask, Call
from twofold.migrate.local import LocalModel, read_calls

PASSAGE = "The mayor of Quillmere is Torvane. Quillmere has 7215 inhabitants.\n\nHow many people live in Quillmere?"


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(LLM("demo", dtype="w8a8", threads=1), "demo")


def chat(**more: object) -> Ask:
    return Ask(line=1, kind="chat", body={"messages": [{"role": "user", "content": PASSAGE}], "temperature": 0, **more})


def test_it_answers_chats_and_completions_with_tokens_and_times(model: LocalModel) -> None:
    found = model.answer(chat(max_tokens=20))
    assert (found.text, found.finish, found.failure) == ("It is 7215.", "stop", None)
    assert found.prompt_tokens
    assert found.completion_tokens
    assert found.first_token_s is not None
    cut = model.answer(Ask(line=1, kind="completion", body={"prompt": "The mayor", "max_tokens": 2, "temperature": 0}))
    assert (cut.finish, cut.completion_tokens) == ("length", 2)


@pytest.mark.parametrize("more", [{"temperature": -1}, {"max_tokens": "x"}, {"stop": 3}, {"messages": [{"role": "x"}]}])
def test_a_request_it_cannot_serve_is_a_failure(model: LocalModel, more: dict[str, object]) -> None:
    found = model.answer(chat(**more))
    assert found.failure is not None
    assert found.failure.startswith("error: ")


def test_what_has_no_effect_is_noted(model: LocalModel) -> None:
    notes = model.answer(chat(max_tokens=1, logit_bias={"5": 1}, response_format={"type": "json_object"})).notes
    assert len(notes) == 2
    assert notes[0].startswith("logit_bias has no effect")
    assert notes[1].startswith("response_format is not enforced")


def test_calls_are_read_from_the_text() -> None:
    text, calls = read_calls('I look. {"name": "f", "parameters": {"x": 1}}', ["f"])
    assert (text.strip(), [(call.name, json.loads(call.arguments)) for call in calls]) == ("I look.", [("f", {"x": 1})])
    assert read_calls('{"name": "g", "parameters": {}}', ["f"])[1] == ()
    assert isinstance(calls[0], Call)
