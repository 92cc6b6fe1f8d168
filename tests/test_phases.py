"""How long each phase of a start took."""

from __future__ import annotations

import time

import pytest

from twofold.api import LLM
from twofold.phases import Phases


def test_phases_sum_to_the_time_that_has_passed() -> None:
    start = time.perf_counter()
    phases = Phases()
    for name in ("a", "b", "a"):
        phases.end(name)
    assert list(phases.seconds) == ["a", "b"]
    assert 0 <= sum(phases.seconds.values()) <= time.perf_counter() - start


def test_what_somebody_else_has_timed_is_not_counted_twice() -> None:
    phases = Phases()
    phases.add({"inner": 1000.0})
    phases.end("outer")
    assert phases.seconds["inner"] == 1000.0
    assert phases.seconds["outer"] == pytest.approx(-1000.0, abs=60)


def test_a_loaded_model_tells_its_phases() -> None:
    loaded = LLM("demo", dtype="w8a8", threads=1).loaded
    assert list(loaded.phases) == ["config", "tokenizer", "weights"]
    assert loaded.load_seconds == sum(loaded.phases.values())
