from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from twofold.bench.prices import Hosted, Machine, own_book
from twofold.errors import SettingsError
from twofold.migrate.answers import Answer, Ask, Call
from twofold.migrate.figures import cost_of, figures_of, find_price, quantile
from twofold.migrate.judging import Pair, judge
from twofold.migrate.verdict import Limits, decide

GOOD = Answer(text="It is 7.", prompt_tokens=1000, completion_tokens=500, total_s=1.0, first_token_s=0.1)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}
HOSTED = Hosted(source="s", noted=date(2025, 1, 1), input_per_million=1.0, output_per_million=2.0)
MACHINE = Machine(source="s", noted=date(2025, 1, 1), per_hour=3.6)


def pairs(count: int, old: Answer = GOOD, new: Answer = GOOD) -> list[Pair]:
    ask = Ask(line=1, kind="chat", body={"messages": [{}], "tools": [TOOL]})
    return [judge(ask, old, new) for _ in range(count)]


def failed(found: list[Pair], limits: Limits | None = None, is_partial: bool = False) -> list[str]:
    verdict = decide(figures_of(found, HOSTED, HOSTED), limits or Limits(), is_partial)
    assert verdict.is_go == (not verdict.reasons)
    return [check.name for check in verdict.checks if check.passed is False]


def test_the_same_answers_are_a_go() -> None:
    assert failed(pairs(20)) == []


def test_each_check_stands_in_the_way_by_itself_and_gives_way_to_its_limit() -> None:
    assert failed(pairs(19)) == ["enough evidence"]
    some = [*pairs(20), *pairs(1, new=Answer(failure="timeout: x"))]
    assert failed(some) == ["failures of the new side"]
    assert failed(some, Limits(most_failures=0.05)) == []
    assert failed(pairs(20, new=replace(GOOD, text="No idea, sorry"))) == ["agreement of the answers"]
    assert failed(pairs(20, new=replace(GOOD, total_s=1.6))) == ["median time of an answer"]
    assert failed(pairs(20, new=replace(GOOD, completion_tokens=501))) == ["cost"]


def test_valid_calls_may_not_become_fewer() -> None:
    good, bad = replace(GOOD, calls=(Call("f", '{"x": 1}'),)), replace(GOOD, calls=(Call("f", "{}"),))
    assert "valid tool calls" in failed([*pairs(19, good, good), *pairs(1, good, bad)])
    assert failed([*pairs(19, good, good), *pairs(1, good, bad)], Limits(most_loss=0.05)) == []
    assert "valid tool calls" in failed(pairs(20, good, GOOD))
    assert "valid tool calls" not in failed(pairs(20, bad, good))


def test_a_part_is_never_a_go() -> None:
    assert failed(pairs(20), is_partial=True) == []
    assert not decide(figures_of(pairs(20), None, None), Limits(), True).is_go


def test_costs_are_by_token_or_by_time() -> None:
    assert cost_of([GOOD] * 2, HOSTED) == pytest.approx(2 * (1000 * 1 + 500 * 2) / 1e6)
    assert cost_of([GOOD] * 2, MACHINE) == pytest.approx(2 * 0.001)
    assert cost_of([replace(GOOD, prompt_tokens=None)], HOSTED) is None
    with pytest.raises(SettingsError, match="did you mean gpu-h100-80gb"):
        find_price(own_book(), "gpu-h100-80g")


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.95) == 2.0
    assert quantile([], 0.5) is None
