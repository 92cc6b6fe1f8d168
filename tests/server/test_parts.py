"""Calls of tools are shown when they are whole."""

from __future__ import annotations

from twofold.server.parts import Called, WholeCalls, object_of
from twofold.text.tools import CallArguments, CallBegun, Said


def test_a_call_comes_when_something_follows_it_or_the_answer_ends() -> None:
    calls = WholeCalls()
    assert calls.feed([Said("Now: "), CallBegun(0, "f"), CallArguments(0, '{"x"')]) == [Said("Now: ")]
    assert calls.feed([CallArguments(0, ": 1}")]) == []
    assert calls.feed([CallBegun(1, "g")]) == [Called("f", {"x": 1})]
    assert calls.flush() == [Called("g", {})]
    assert calls.flush() == []


def test_a_call_without_an_object_stays_what_was_written() -> None:
    calls = WholeCalls()
    assert calls.feed([CallBegun(0, "f"), CallArguments(0, '{"x": 1')]) == []
    assert calls.flush() == [Said('{"name": "f", "parameters": {"x": 1')]


def test_only_objects_are_arguments() -> None:
    assert object_of("[1]") is None
    assert object_of('{"x":' * 100_000) is None
    assert object_of("") == {}
