"""When steps are launched behind others, and what happens to those in flight."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.lagging import Lagging
from tests.toys import build_engine, open_toy
from twofold.backends.cpu.ops import CpuOps
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import SamplingParams
from twofold.engine.scheduler import Plan
from twofold.errors import InvalidSampling

Toys = Callable[[str], tuple[Path, Any]]
LONG = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
PROMPT = [5, 6, 7]


class Steady(random.Random):
    """A device that is always as far behind as it can be, and takes nothing back."""

    def choice(self, seq: Any) -> Any:
        return max(seq)

    def random(self) -> float:
        return 1.0


@pytest.fixture
def engine(toy_folder: Toys) -> Engine:
    """On a device that lags, with two places."""
    folder = toy_folder("llama3")[0]
    ops, shape = CpuOps(kv_dtype="f32"), open_toy(folder)[0].cache_shape
    limits = EngineLimits(context=64, step_tokens=16, max_sequences=2, vocabulary=90, checks=True)
    lagging = Lagging(ops, Steady())
    forward = lagging.lag(build_engine(folder, ops).forward)
    return Engine(lagging, forward, shape, plan_layout(shape.chunk, 128, 16, 2), limits)


def answer(engine: Engine, steps: int = 100) -> dict[int, list[int]]:
    """Tokens by request, of so many steps or of all there are."""
    found: dict[int, list[int]] = {}
    while not engine.is_idle and steps:
        for event in engine.step():
            found.setdefault(event.request_id, []).append(event.drawn.token)
        steps -= 1
    return found


def test_every_step_but_the_first_follows_at_once(engine: Engine) -> None:
    request = engine.add(PROMPT, LONG)
    assert len(answer(engine)[request.id]) == 20
    assert engine.ops.flights == 19
    assert engine.flight is None


def test_a_step_behind_is_not_planned_for_those_that_end(engine: Engine) -> None:
    short, long = engine.add(PROMPT, SamplingParams(max_tokens=3, ignore_eos=True)), engine.add(PROMPT, LONG)
    found = answer(engine)
    assert (len(found[short.id]), len(found[long.id])) == (3, 20)
    assert engine.ops.flights == 19


def test_who_waits_for_a_place_that_may_be_there_comes_first(engine: Engine) -> None:
    engine.add(PROMPT, LONG)
    answer(engine, 2)
    assert engine.flight is not None
    second = engine.add(PROMPT, LONG)
    engine.step()
    assert engine.flight is None, "the step in flight was taken over, and none launched behind it"
    engine.step()
    assert {item.sequence.request.id for item in engine.latest.slices} >= {second.id}


def test_who_waits_while_all_places_are_taken_stops_nobody(engine: Engine) -> None:
    for _ in range(3):
        third = engine.add(PROMPT, LONG)
    answer(engine, 4)
    assert engine.flight is not None
    urgent = engine.add(PROMPT, SamplingParams(temperature=0.0, max_tokens=2, priority=-1, ignore_eos=True))
    engine.step()
    assert engine.flight is None, "one of a better priority takes a place"
    found = answer(engine)
    assert (len(found[third.id]), len(found[urgent.id])) == (20, 2)


def test_nothing_more_comes_of_a_request_that_is_cancelled_in_flight(engine: Engine) -> None:
    request, other = engine.add(PROMPT, LONG), engine.add([9, 9], LONG)
    answer(engine, 3)
    engine.cancel(request.id)
    found = answer(engine)
    assert list(found) == [other.id]
    assert len(engine.blocks.free_global) == engine.blocks.layout.global_blocks


def test_all_of_them_cancelled_leave_nothing_in_flight(engine: Engine) -> None:
    request = engine.add(PROMPT, LONG)
    answer(engine, 3)
    engine.cancel(request.id)
    assert engine.is_idle
    assert engine.step() == []
    again = engine.add(PROMPT, LONG)
    assert len(answer(engine)[again.id]) == 20


def test_a_step_behind_that_cannot_be_launched_counts_for_nothing(engine: Engine) -> None:
    expected = answer(engine, 100) if engine.add(PROMPT, LONG) else {}
    request = engine.add(PROMPT, LONG)
    found = answer(engine, 3)[request.id]
    forward = engine.forward

    def fail(*_: Any) -> Any:
        raise MemoryError

    engine.forward = fail
    with pytest.raises(MemoryError):
        engine.step()
    engine.forward = forward
    assert engine.in_flight is not None
    for item in engine.in_flight.slices:
        found += [event.drawn.token for event in engine.advance(Plan(slices=(item,)))]
    engine.in_flight = None
    assert found + answer(engine)[request.id] == next(iter(expected.values()))


def test_a_step_behind_that_cannot_be_drawn_from_is_run_again_and_told(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    whole = engine.add(PROMPT, LONG)
    expected = answer(engine)[whole.id]
    request = engine.add(PROMPT, LONG)
    found = answer(engine, 3)[request.id]
    begin = engine.ops.begin_sample

    def fail(*_: Any) -> Any:
        engine.ops.begin_sample = begin
        raise MemoryError

    engine.ops.begin_sample = fail
    found += answer(engine, 1)[request.id]
    assert engine.flight is None
    assert "run again" in caplog.text
    assert found + answer(engine)[request.id] == expected


def test_what_cannot_be_drawn_behind_a_step_ends_its_request_only(engine: Engine) -> None:
    """The second token of one is impossible: its step behind is run again by itself and says so."""
    params = SamplingParams(allowed_token_ids=(7,), bad_sequences=((7, 7),), max_tokens=9, ignore_eos=True)
    doomed, other = engine.add(PROMPT, params), engine.add(PROMPT, LONG)
    found: dict[int, list[int]] = {doomed.id: [], other.id: []}
    failed = []
    while not engine.is_idle:
        try:
            events = engine.step()
        except InvalidSampling:
            plan, events = engine.in_flight, []
            for item in plan.slices if plan else ():
                try:
                    events += engine.advance(Plan(slices=(item,)))
                except InvalidSampling:
                    failed.append(item.sequence.request.id)
                    engine.cancel(failed[-1])
            engine.in_flight = None
        for event in events:
            found[event.request_id].append(event.drawn.token)
    assert failed == [doomed.id]
    assert (found[doomed.id], len(found[other.id])) == ([7], 20)
