"""A repeated proof says what differs, and nothing of what one measurement cannot tell."""

from __future__ import annotations

from twofold.bench.proof.model import Interval
from twofold.bench.proof.replay import beside


def old(low: float, median: float, high: float) -> dict[str, float]:
    return {"low": low, "median": median, "high": high}


def test_intervals_that_meet_are_the_same_and_others_differ() -> None:
    assert beside(old(1.8, 2.0, 2.2), Interval(low=2.1, median=2.3, high=2.5)).endswith("the same")
    assert beside(old(1.8, 2.0, 2.2), Interval(low=2.3, median=2.4, high=2.5)).endswith("different")
    assert beside(old(1.8, 2.0, 2.2), Interval(low=1.0, median=1.2, high=1.5)).endswith("different")


def test_one_measurement_says_nothing_of_a_difference() -> None:
    said = beside(old(1.01, 1.01, 1.01), Interval(low=1.12, median=1.12, high=1.12))
    assert said == "1.01x before, 1.12x now (one measurement each)"
