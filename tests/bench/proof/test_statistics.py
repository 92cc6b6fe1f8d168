"""Intervals hold what they promise; ratios are taken within rounds and always mean better above 1."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.bench.proof.model import Role, Run
from twofold.bench.proof.statistics import figures_of, interval, percentile, ratios_by_round, ratios_of


def run(number: int, role: Role, **figures: float) -> Run:
    return Run(round=number, role=role, seconds=1.0, figures=figures)


@pytest.mark.parametrize("noise", ["normal", "heavy", "disturbed"])
def test_an_interval_holds_the_true_median_in_19_of_20_cases(noise: str) -> None:
    seed = 11
    print(f"seed {seed}")
    source = np.random.default_rng(seed)
    held = 0
    for number in range(300):
        values = source.normal(0, 0.1, 7)
        if noise == "heavy":
            values = 0.1 * source.standard_t(3, 7)
        if noise == "disturbed":
            values = np.where(source.random(7) < 0.2, source.normal(0, 0.5, 7), values)
        found = interval(np.exp(values).tolist(), seed=number)
        held += found.low <= 1 <= found.high
    assert held >= 0.95 * 300


def test_a_clear_difference_is_outside_the_interval() -> None:
    source = np.random.default_rng(3)
    for _ in range(50):
        found = interval((2 * np.exp(source.normal(0, 0.05, 7))).tolist(), seed=1)
        assert 1.7 < found.low <= found.median <= found.high < 2.4


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 1.1, 0.9, 1.4, 1.05, 0.97]
    assert interval(values, 5) == interval(values, 5)
    assert interval([2.0], 5).low == interval([2.0], 5).high == 2.0


def test_ratios_are_within_rounds_and_better_is_above_1() -> None:
    runs = [
        run(0, "baseline", tokens_per_s=10, first_token_ms=100),
        run(0, "candidate", tokens_per_s=30, first_token_ms=50),
        run(1, "candidate", tokens_per_s=3, first_token_ms=500),  # the machine was ten times slower
        run(1, "baseline", tokens_per_s=1, first_token_ms=1000),
        run(2, "candidate", tokens_per_s=5),  # its partner failed
    ]
    assert ratios_by_round(runs, "tokens_per_s") == [(0, 3.0), (1, 3.0)]
    assert ratios_by_round(runs, "first_token_ms") == [(0, 2.0), (1, 2.0)]
    assert ratios_of(runs, 1)["tokens_per_s"].high == 3.0
    assert "goodput" not in ratios_of(runs, 1)
    assert figures_of(runs, 1)["candidate"]["tokens_per_s"].median == 5


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([1, 2, 3, 4], 99) == 4
    assert percentile([], 50) == 0
