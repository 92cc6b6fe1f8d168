"""Two clients beside each other: which answers count, and what is said of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from benchmarks.client_agreement import Load, Seen, body_of, compare, noise, ours, rows, theirs
from twofold.bench.client import Answer
from twofold.errors import BenchError

LOAD = Load(requests=8, streams=2, facts=5, answer_tokens=16)


def seen(begun_s: float, ended_s: float, first_token_ms: float = 100.0, tokens: int = 10) -> Seen:
    return Seen(
        begun_s=begun_s, ended_s=ended_s, first_token_ms=first_token_ms, between_tokens_ms=10.0, tokens=tokens
    )  # fmt: skip


def test_only_answers_that_ended_while_both_were_at_work_count() -> None:
    others = [seen(number, number + 1.0) for number in range(10)]  # from 1 to 9 seconds all its streams run
    own = [seen(-1.0, 0.5, 999.0), *(seen(number, number + 1.0, 102.0) for number in range(20))]
    found = compare(own, others)
    assert found["seconds"] == 8.0
    assert (found["twofold"]["answers"], found["guidellm"]["answers"]) == (8, 8)
    assert found["difference"] == {"first_token_ms": 0.02, "between_tokens_ms": 0.0, "tokens_per_s": 0.0}
    assert found["noise"] == {"first_token_ms": 0.0, "between_tokens_ms": 0.0}


def test_clients_that_never_worked_at_once_are_not_compared() -> None:
    with pytest.raises(BenchError, match="while both clients were at work"):
        compare([seen(100.0, 101.0)], [seen(number, number + 1.0) for number in range(10)])


def test_noise_falls_with_the_number_of_answers() -> None:
    few, many = ([100.0 + number % 7 for number in range(count)] for count in (20, 2000))
    assert noise(few, few) > 2 * noise(many, many)


def test_the_same_rows_come_for_the_same_seed_and_no_two_are_alike() -> None:
    first, again, other = (list(itertools.islice(rows(LOAD, seed), 8)) for seed in (1, 1, 2))
    assert first == again
    assert not {row["prompt"] for row in first} & {row["prompt"] for row in other}
    assert {8 <= row["output_tokens_count"] <= 24 for row in first} == {True}
    body = body_of(first[0])
    assert body["max_completion_tokens"] == first[0]["output_tokens_count"]
    assert body["stream"]


def test_our_figures_of_an_answer_are_those_of_a_proof() -> None:
    answer = Answer(sent_s=5.0, is_done=True)
    answer.events = [
        (5.25, b'{"choices": [{"delta": {"role": "assistant"}}]}'),
        (5.5, b'{"choices": [{"delta": {"content": "a"}}]}'),
        (6.5, b'{"choices": [{"delta": {"content": "bcd"}, "finish_reason": "length"}]}'),
        (6.6, b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}'),
    ]
    (found,) = ours([answer], 1000.0)
    assert found == Seen(begun_s=1005.0, ended_s=1006.5, first_token_ms=500.0, between_tokens_ms=250.0, tokens=5)


def test_a_failed_request_of_the_other_client_ends_the_comparison() -> None:
    requests: dict[str, Any] = {"successful": [], "errored": [{"error": "400"}], "incomplete": []}
    with pytest.raises(BenchError, match="400"):
        theirs({"benchmarks": [{"requests": requests}]})
