from __future__ import annotations

from dataclasses import replace

from tests.bench.proof.proofs import complete
from twofold.bench.proof.answers import MOST_LETTERS, MOST_PAIRS, failures_of, pairs_of


def test_the_first_answers_are_shown_with_where_they_part() -> None:
    proof, samples = complete()
    pairs = pairs_of(proof, samples)
    assert [pair.title for pair in pairs] == [f"Round 1, request {number}" for number in range(1, MOST_PAIRS + 1)]
    assert pairs[0].common == "The town of Quillmere has 7000 inhabitants, "
    assert pairs[0].rests == ["and its mayor is Torvane.", "with a mayor named Torvane."]
    assert pairs[0].says == "the same for the first 44 letters"
    assert pairs[1].says == "the same answer"
    assert pairs[0].prompt == "How many people live in the town number 0?"


def test_answers_part_where_a_word_begins() -> None:
    proof, samples = complete()
    texts = {"baseline": "It is Mosk.", "candidate": "It is Marra."}
    pair = pairs_of(proof, [replace(item, text=texts[item.role]) for item in samples])[0]
    assert (pair.common, pair.rests) == ("It is ", ["Mosk.", "Marra."])


def test_answers_of_one_contender_alone_are_not_shown() -> None:
    proof, samples = complete()
    silent = [replace(item, text="") if item.role == "candidate" and item.request < 2 else item for item in samples]
    assert pairs_of(proof, silent)[0].title == "Round 1, request 3"
    assert pairs_of(proof, [item for item in samples if item.role == "baseline"]) == []


def test_answers_are_only_compared_within_a_round() -> None:
    proof, samples = complete()
    apart = [item for item in samples if (item.round, item.role) in ((0, "baseline"), (1, "candidate"))]
    assert pairs_of(proof, apart) == []


def test_a_long_answer_is_cut_with_a_word_about_it() -> None:
    proof, samples = complete()
    (pair, *_) = pairs_of(proof, [replace(item, text="y" * 5000) for item in samples])
    assert pair.common == "y" * MOST_LETTERS + " [and 3,000 more letters]"


def test_a_workload_without_prompts_is_fine() -> None:
    proof, samples = complete()
    for workload in ({}, {"prompts": "text"}, {"prompts": [None, 3]}):
        assert pairs_of(replace(proof, workload=workload), samples)[0].prompt == ""


def test_failures_are_counted_by_contender_and_reason() -> None:
    _, samples = complete()
    assert failures_of(samples) == []
    failed = [
        replace(item, error="timeout" if item.request else "refused") for item in samples if item.role == "baseline"
    ]
    assert failures_of(failed) == [
        "168 of 168 answers of the baseline failed.",
        "161 times: timeout",
        "7 times: refused",
    ]
