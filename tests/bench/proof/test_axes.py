from __future__ import annotations

import math
import random

import pytest

from twofold.bench.proof.axes import (
    even_scale,
    even_ticks,
    figure,
    log_scale,
    log_ticks,
    percent,
    plain,
    short,
    thinned,
    times,
)


@pytest.mark.parametrize(
    "values", [[], [0.0], [5.0], [3.0, 3.0, 3.0], [-2.0, 7.0], [math.nan, math.inf, 2.0], [1e-12, 1e12]]
)
def test_a_scale_holds_every_value_whatever_they_are(values: list[float]) -> None:
    for make in (even_scale, log_scale):
        scale = make(values, 10, 110)
        assert scale.low < scale.high
        assert all(10 <= scale(value) <= 110 for value in values if math.isfinite(value))
        assert all(scale.low <= tick <= scale.high for tick in scale.ticks(5))


def test_scales_place_figures_in_proportion() -> None:
    scale = even_scale([0, 10], 0, 106)
    assert (scale.low, scale(0.0), scale(5.0), scale(10.0)) == (0, 0, 50, 100)
    scale = log_scale([1, 100], 0, 108)
    assert scale(10.0) - scale(1.0) == pytest.approx(scale(100.0) - scale(10.0))
    assert scale(0.0) == scale(-1.0) == 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.9, 2.6, [1, 1.5, 2, 2.5]),
        (-3, 4, [-2, 0, 2, 4]),
        (0, 0.007, [0, 0.002, 0.004, 0.006]),
    ],
)
def test_even_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert even_ticks(low, high, 5) == ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (10, 100, [10, 20, 50, 100]),
        (1, 1.5, [1, 1.1, 1.2, 1.3, 1.4, 1.5]),
        (3, 9, [4, 6, 8]),
        (1, 1000, [1, 10, 100, 1000]),
        (1, 1e10, [1, 1e3, 1e6, 1e9]),
    ],
)
def test_logarithmic_ticks_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high, 5) == ticks


def test_no_range_has_too_many_or_too_few_ticks() -> None:
    chance = random.Random(5)
    for _ in range(2000):
        low = 10 ** chance.uniform(-8, 8)
        high = low * (1 + 10 ** chance.uniform(-2, 8))
        for found in (even_ticks(low, high, 5), log_ticks(low, high, 5)):
            assert 1 <= len(found) <= 6, (low, high, found)
            assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in found)


def test_figures_have_three_digits_and_need_no_more() -> None:
    assert [figure(value) for value in (0, 0.002134, 0.05, 1.2345, 98.76, 12345.6, -4.2, 1e-7)] == [
        *("0", "0.00213", "0.0500", "1.23", "98.8", "12,346", "-4.20", "1e-07"),
    ]
    assert [plain(value) for value in (0, 0.5, 20, 1000, 1e-8)] == ["0", "0.5", "20", "1,000", "1e-08"]
    assert [short(value) for value in (500, 1000, 2.5e6, 1e9, 3e12)] == ["500", "1k", "2.5M", "1B", "3T"]
    assert [times(value) for value in (0.5, 2.3456, 13.21, 140)] == ["0.50x", "2.35x", "13.2x", "140x"]


def test_only_the_whole_is_called_100_percent() -> None:
    shares = (0, 1e-6, 0.5, 0.964, 0.99999, 1)
    assert [percent(share) for share in shares] == ["0 %", "under 0.1 %", "50.0 %", "96.4 %", "over 99.9 %", "100 %"]


def test_thousands_of_values_are_thinned_and_their_ends_kept() -> None:
    assert thinned([3, 1, 2], 10) == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3)), (3, 1)]
    found = thinned(range(100_000), 200)
    assert len(found) == 200
    assert (found[0], found[-1]) == ((0, 1e-5), (99_999, 1))
    assert thinned([], 10) == []
