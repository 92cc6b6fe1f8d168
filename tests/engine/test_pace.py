"""How much of a prompt is read beside sequences that decode."""

from __future__ import annotations

import pytest

from tests.engine.test_scheduler import scheduler, sequence
from twofold.engine.pace import FLOOR_ROWS, Pace
from twofold.ops.types import Drawn


def settle(pace: Pace, fixed_s: float, row_s: float, steps: int = 30) -> tuple[int, float]:
    """Rows and seconds of the steps a machine with these costs comes to."""
    rows, seconds = 512, fixed_s + 512 * row_s
    pace.learn(rows, 0, seconds)
    pace.learn(0, 4, fixed_s)
    for _ in range(steps):
        rows = min(512, pace.rows or 512)
        seconds = fixed_s + rows * row_s
        pace.learn(rows, 4, seconds)
    return rows, seconds


def test_steps_come_to_take_what_they_may() -> None:
    rows, seconds = settle(Pace(0.2), fixed_s=0.05, row_s=0.002)
    assert rows == pytest.approx(75, abs=2)
    assert seconds == pytest.approx(0.2, rel=0.03)


def test_where_decoding_fills_the_target_reading_gets_as_long_again() -> None:
    rows, seconds = settle(Pace(0.2), fixed_s=0.3, row_s=0.004)
    assert rows == pytest.approx(75, abs=2)
    assert seconds == pytest.approx(0.6, rel=0.03)


def test_a_piece_is_never_shorter_than_the_floor() -> None:
    assert settle(Pace(0.2), fixed_s=0.01, row_s=0.5)[0] == FLOOR_ROWS


def test_a_fast_machine_reads_whole_steps() -> None:
    assert settle(Pace(0.2), fixed_s=0.01, row_s=0.0001)[0] == 512


def test_rows_that_cost_more_further_on_become_fewer() -> None:
    pace = Pace(0.2)
    settle(pace, fixed_s=0.05, row_s=0.002)
    assert settle(pace, fixed_s=0.05, row_s=0.004)[0] == pytest.approx(38, abs=2)


def test_a_short_prompt_says_nothing_about_a_long_one() -> None:
    pace = Pace(0.2)
    settle(pace, fixed_s=0.05, row_s=0.002)
    before = pace.rows
    pace.learn(FLOOR_ROWS - 1, 4, 3.0)
    assert pace.rows == before


def test_no_target_sets_no_limit_and_neither_does_a_pace_that_has_measured_nothing() -> None:
    assert Pace(0.2).rows is None
    pace = Pace(0.0)
    pace.learn(100, 0, 1.0)
    assert pace.rows is None


def test_a_limit_holds_for_prompts_while_something_decodes_and_only_then() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=3, answer=20))
    served.add(sequence(1, prompt=20, answer=2))
    sizes = []
    for _ in range(4):
        plan = served.plan(reading_rows=2)
        assert plan is not None
        sizes.append((plan.decoding, plan.reading_rows))
        served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
    assert sizes == [(0, 8), (1, 2), (1, 2), (1, 2)]
    served.cancel(0)
    plan = served.plan(reading_rows=2)
    assert plan is not None
    assert (plan.decoding, plan.reading_rows) == (0, 8)


def test_guesses_run_beside_a_prompt_and_take_none_of_its_rows() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=3, answer=20))
    served.commit(served.plan(), [Drawn(token=1)])  # type: ignore[arg-type]
    served.add(sequence(1, prompt=20, answer=2))
    plan = served.plan({0: (1, 1, 1)}, reading_rows=2)
    assert plan is not None
    assert [(item.count, item.guesses) for item in plan.slices] == [(1, (1, 1, 1)), (2, ())]
    plan = served.plan({0: (1, 1, 1)})
    assert plan is not None
    assert [(item.count, item.guesses) for item in plan.slices] == [(1, (1, 1, 1)), (4, ())]  # eight in all
