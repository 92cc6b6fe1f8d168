"""What the engine has done, and what that costs."""

from __future__ import annotations

import random

import pytest

from twofold.engine.runner import StepReport
from twofold.errors import SettingsError
from twofold.server.cost import Price, phase_costs, unit_costs
from twofold.server.work import LATELY_S, Work


def report(rows: int, prompt_rows: int, seconds: float, drawn: int = 1) -> StepReport:
    return StepReport(rows=rows, prompt_rows=prompt_rows, drawn=drawn, seconds=seconds)


def test_a_steps_seconds_are_split_over_its_rows_and_sum_to_the_whole() -> None:
    source = random.Random(5)
    work, now_s, busy_s = Work(lambda rows: 100.0 * rows, began_s=0.0), 0.0, 0.0
    for _ in range(500):
        rows = source.randrange(1, 600)
        seconds = source.random()
        busy_s += seconds
        now_s += seconds + source.random()
        work.add_step(report(rows, source.randrange(rows + 1), seconds), now_s)
    spent = work.phase_seconds(now_s)
    assert spent["input"] + spent["output"] == pytest.approx(busy_s)
    assert sum(spent.values()) == pytest.approx(now_s)


def test_rows_of_prompts_are_input_and_all_others_output() -> None:
    work = Work(lambda rows: 0.0, began_s=0.0)
    work.add_step(report(rows=10, prompt_rows=8, seconds=5.0, drawn=3), 5.0)
    work.add_step(report(rows=0, prompt_rows=0, seconds=9.0, drawn=0), 6.0)
    work.add_prompt(12)
    assert work.seconds == {"input": 4.0, "output": 1.0}
    assert work.tokens == {"input": 12, "output": 3}


def test_only_steps_without_prompts_say_how_fast_weights_are_read() -> None:
    work = Work(lambda rows: 100.0 * rows, began_s=0.0)
    work.add_step(report(rows=8, prompt_rows=7, seconds=1.0), 1.0)
    assert work.decode_bytes_per_s is None
    work.add_step(report(rows=2, prompt_rows=0, seconds=0.5), 2.0)
    work.add_step(report(rows=1, prompt_rows=0, seconds=0.5), 3.0)
    assert work.decode_bytes_per_s == 300.0
    assert (work.decode_read_bytes, work.decode_seconds) == (300.0, 1.0)


def test_lately_forgets_what_is_long_ago() -> None:
    work = Work(lambda rows: 0.0, began_s=0.0)
    work.add_step(report(rows=50, prompt_rows=40, seconds=1.0, drawn=10), 100.0)
    assert work.lately(100.0) == {"input": 40 / LATELY_S, "output": 10 / LATELY_S}
    assert work.lately(101.0 + LATELY_S) == {"input": 0.0, "output": 0.0}


def test_costs_of_the_phases_sum_to_the_price_of_the_time() -> None:
    work, price = Work(lambda rows: 0.0, began_s=0.0), Price(per_hour=3.6)
    work.add_step(report(rows=4, prompt_rows=3, seconds=100.0), 900.0)
    assert phase_costs(work, price, 1000.0) == pytest.approx({"input": 0.075, "output": 0.025, "idle": 0.9})


def test_a_million_tokens_cost_the_full_speed_price_times_what_idling_adds() -> None:
    work, price = Work(lambda rows: 0.0, began_s=0.0), Price(per_hour=3.6)
    assert list(unit_costs(work, price, 10.0)) == []
    work.add_prompt(50)
    work.add_step(report(rows=4, prompt_rows=3, seconds=100.0, drawn=25), 100.0)
    costs = {(unit.phase, unit.utilisation): unit.per_million for unit in unit_costs(work, price, 400.0)}
    assert costs["input", "full"] == pytest.approx(0.075 / 50 * 1e6)
    assert costs["output", "full"] == pytest.approx(0.025 / 25 * 1e6)
    assert costs["total", "full"] == pytest.approx(0.1 / 75 * 1e6)
    for phase in ("input", "output", "total"):
        assert costs[phase, "measured"] == pytest.approx(4 * costs[phase, "full"])
    charged = costs["input", "measured"] * 50e-6 + costs["output", "measured"] * 25e-6
    assert charged == pytest.approx(price.of(400.0))


@pytest.mark.parametrize(
    "wrong", [{"per_hour": 0.0}, {"per_hour": -1.0}, {"per_hour": float("nan")}, {"per_hour": 1.0, "currency": "Euro"}]
)
def test_a_price_that_is_none_is_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError):
        Price(**wrong)
