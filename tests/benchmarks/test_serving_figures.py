"""Figures of servers."""

from __future__ import annotations

import json

import pytest

from benchmarks.serving.client import Answer, BadAnswer
from benchmarks.serving.figures import check, level_figures, percentile, spread, times_as_good


def answer(sent_s: float, *times: float, tokens: int | None = None, prompt: int = 7) -> Answer:
    usage = {"prompt_tokens": prompt, "completion_tokens": len(times) if tokens is None else tokens}
    texts = [(at_s, json.dumps({"choices": [{"text": "a"}]}).encode()) for at_s in times]
    return Answer(sent_s, [*texts, (times[-1], json.dumps({"choices": [], "usage": usage}).encode())], is_done=True)


@pytest.mark.parametrize(("share", "value"), [(50, 2.0), (51, 3.0), (99, 4.0), (100, 4.0), (1, 1.0)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile([4.0, 2.0, 1.0, 3.0], share) == value


def test_tokens_count_from_the_first_request_to_the_last_token() -> None:
    answers = [answer(10.0, 10.5, 11.0, 13.0), answer(11.0, 12.0, 14.0, 15.0)]
    found = level_figures(answers, check(answers, 7, 3))
    assert found == {
        "tokens_per_s": 1.2,
        "first_token_p50_ms": 500.0, "first_token_p99_ms": 1000.0,
        "between_tokens_p50_ms": 1000.0, "between_tokens_p99_ms": 2000.0,
    }  # fmt: skip


def test_answers_of_one_token_have_no_gaps() -> None:
    answers = [answer(0.0, 1.0)]
    assert "between_tokens_p50_ms" not in level_figures(answers, check(answers, 7, 1))


@pytest.mark.parametrize("wrong", [answer(0.0, 1.0, 2.0, tokens=1), answer(0.0, 1.0, 2.0, prompt=8)])
def test_answers_of_another_length_end_the_comparison(wrong: Answer) -> None:
    with pytest.raises(BadAnswer, match="were asked for"):
        check([answer(0.0, 1.0, 2.0), wrong], 7, 2)


def test_ratios_are_taken_within_rounds_and_above_one_is_better() -> None:
    own = {0: {"tokens_per_s": 30.0, "first_token_p50_ms": 10.0}, 1: {"tokens_per_s": 60.0}, 2: {"tokens_per_s": 8.0}}
    other = {0: {"tokens_per_s": 10.0, "first_token_p50_ms": 25.0}, 1: {"tokens_per_s": 30.0}}
    assert times_as_good(own, other) == {"first_token_p50_ms": 2.5, "tokens_per_s": 2.5}


def test_a_spread_has_every_figure_that_any_round_has() -> None:
    found = spread([{"a": 1.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0}])
    assert found == {
        "a": {"median": 2.0, "least": 1.0, "most": 3.0},
        "b": {"median": 5.0, "least": 5.0, "most": 5.0},
    }
