"""Answers are compared pair by pair; what is right is what holds the expected text."""

from __future__ import annotations

from dataclasses import replace

from twofold.bench.proof.closeness import compare_answers, overlap, paired, rows_of
from twofold.bench.proof.model import Role, Sample
from twofold.bench.proof.workload import preset_workload

WORKLOAD = preset_workload("chat", 4, 2, None)


def sample(role: Role, request: int, text: str, error: str = "") -> Sample:
    return Sample(round=0, role=role, request=request, text=text, error=error)


def right(request: int) -> str:
    return f"It is {WORKLOAD.requests(1, 0)[request].expected}."


def test_pairs_are_of_the_same_request_and_whole() -> None:
    samples = [
        sample("candidate", 1, "b"), sample("baseline", 0, "a"), sample("baseline", 1, "B"),
        sample("candidate", 0, "", error="broke"), replace(sample("candidate", 0, "late"), round=1),
    ]  # fmt: skip
    assert [(old.text, new.text) for old, new in paired(samples)] == [("B", "b")]


def test_shares_of_equal_alike_and_right_answers() -> None:
    samples = [sample("baseline", number, right(number)) for number in range(4)]
    samples += [sample("candidate", number, right(number).lower()) for number in range(3)]
    samples += [sample("candidate", 3, "It is somewhere else")]
    found = compare_answers(WORKLOAD, 1, samples)
    assert (found.kind, found.compared, found.same) == ("answers", 4, 0.0)
    assert (found.expected_baseline, found.expected_candidate) == (1.0, 0.75)
    assert compare_answers(WORKLOAD, 1, samples[:4]).kind == "none"


def test_words_in_common_keep_their_order() -> None:
    assert overlap("a b c d", "a b c d") == 1.0
    assert overlap("a b c d", "d c b a") < 0.5
    assert overlap("", "") == 1.0
    assert overlap("a", "") == 0.0


def test_scored_conversations_end_with_the_baselines_words() -> None:
    samples = [sample("baseline", number, f"answer {number}") for number in range(3)]
    rows = rows_of(WORKLOAD, 1, [*samples, sample("baseline", 3, ""), sample("candidate", 3, "x")])
    assert [row["messages"][-1] for row in rows] == [
        {"role": "assistant", "content": f"answer {number}"} for number in range(3)
    ]
    assert all(row["messages"][0]["role"] == "user" for row in rows)
