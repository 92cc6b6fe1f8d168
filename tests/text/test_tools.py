"""Tool calls are found in every form, in whatever pieces the text comes, and nothing else is taken for one."""

from __future__ import annotations

import json
import random

import pytest

from twofold.text.tools import CallArguments, CallBegun, Said, ToolReader

NAMES = ("get_weather", "add", "geo.find")
Result = tuple[str, list[tuple[str, object]]]


def read(text: str, cuts: list[int]) -> Result:
    reader = ToolReader(NAMES)
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts += reader.feed(text[start:stop])
    parts += reader.flush()
    said = "".join(part.text for part in parts if isinstance(part, Said))
    names = [part.name for part in parts if isinstance(part, CallBegun)]
    assert [part.index for part in parts if isinstance(part, CallBegun)] == list(range(len(names)))
    arguments = ["" for _ in names]
    for part in parts:
        if isinstance(part, CallArguments):
            arguments[part.index] += part.text
    return said, [(name, json.loads(text)) for name, text in zip(names, arguments, strict=True)]


WEATHER = ("get_weather", {"city": "Oslo {]\"'"})
CITY = json.dumps("Oslo {]\"'")
CASES: dict[str, Result] = {
    f'{{"name": "get_weather", "parameters": {{"city": {CITY}}}}}': ("", [WEATHER]),
    f'{{"name":"get_weather","arguments":{{"city":{CITY}}}}}': ("", [WEATHER]),
    f'{{"type": "function", "name": "get_weather", "parameters": {{"city": {CITY}}}}}': ("", [WEATHER]),
    f'{{"type":"function","function":{{"name":"get_weather","arguments":{{"city":{CITY}}}}}}}': ("", [WEATHER]),
    f'{{"function": "get_weather", "parameters": {{"city": {CITY}}}}}': ("", [WEATHER]),
    f'[{{"name": "get_weather", "parameters": {{"city": {CITY}}}}}]': ("", [WEATHER]),
    f'Let me see.\n{{"name": "get_weather", "parameters": {{"city": {CITY}}}}}': ("Let me see.\n", [WEATHER]),
    f"<function=get_weather>{{\"city\": {CITY}}}</function>": ("", [WEATHER]),
    f"[get_weather(city={CITY})]": ("", [WEATHER]),
    f"Now: [get_weather(city={CITY}), add(a=1, b=[2.5, true, None])]": (
        "Now: ", [WEATHER, ("add", {"a": 1, "b": [2.5, True, None]})]),
    '{"name": "add", "parameters": {}}; {"name": "add", "parameters": {"a": {"b": [1]}}}': (
        "", [("add", {}), ("add", {"a": {"b": [1]}})]),
    '[{"name": "add", "parameters": {}}, {"name": "geo.find", "parameters": {"x": "\\\\"}}]\n': (
        "", [("add", {}), ("geo.find", {"x": "\\"})]),
    "[geo.find(x='a\"b')]": ("", [("geo.find", {"x": 'a"b'})]),
}  # fmt: skip
TEXTS = [
    '{"name": "Bob", "parameters": {"a": 1}}',
    '{"name": "get_weathers", "parameters": {}}',
    '{"city": "get_weather"}',
    "Use a[i] and {x}, <b>bold</b>, 1 < 2, [1, 2], [add",
    "[add(1, 2)]",
    "[add(x=open('f'))]",
    "[unknown(x=1)]",
    '{"name": "add", "parameters": "none"}',
    '{"name": "add"',
    "",
]


@pytest.mark.parametrize("text", CASES)
def test_every_form_is_found_in_whatever_pieces_it_comes(text: str) -> None:
    source = random.Random(7)
    every = [[], list(range(1, len(text)))]
    every += [sorted(source.sample(range(1, len(text)), k=3)) for _ in range(20)]
    for cuts in every:
        assert read(text, cuts) == CASES[text], cuts


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_of_a_known_tool_stays_text(text: str) -> None:
    assert read(text, []) == (text, [])
    assert read(text, list(range(1, len(text)))) == (text, [])


def test_arguments_come_as_they_are_written() -> None:
    reader = ToolReader(NAMES)
    assert reader.feed('{"name": "add", "parameters": {"a": ') == [CallBegun(0, "add"), CallArguments(0, '{"a": ')]
    assert reader.is_open
    assert reader.feed("1}") == [CallArguments(0, "1}")]
    assert not reader.is_open


def test_plain_text_is_not_held_back() -> None:
    assert ToolReader(NAMES).feed("Hello, {a} 1 < 2.") == [
        Said("Hello, "), Said("{"), Said("a} 1 "), Said("<"), Said(" 2."),
    ]  # fmt: skip


def test_a_long_answer_takes_time_in_proportion() -> None:
    reader = ToolReader(NAMES)
    text = "[" * 20_000 + '{"name": ' * 2_000 + "[add(" * 2_000
    said = "".join(part.text for part in [*reader.feed(text), *reader.flush()] if isinstance(part, Said))
    assert said == text
