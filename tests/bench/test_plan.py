"""What a machine would do and cost, which machine is cheapest for a wish, and what is missing elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.plan_points import counted
from twofold.bench.catalogue import own_catalogue
from twofold.bench.efficiency import own_efficiency
from twofold.bench.plan import (
    HOURS_PER_MONTH,
    LOADER_BYTES,
    Outcome,
    Wish,
    cheapest,
    closeness,
    decode_rate,
    evaluate,
    needed_bytes,
    place_of,
)
from twofold.bench.prices import own_book
from twofold.bench.roofline import cache_pool_bytes

EFFICIENCY, BOOK, CATALOGUE = own_efficiency(), own_book(), own_catalogue()
MINI = counted("scout-mini", "w4a8")


def plan(machine: str = "aws-c7i-4xlarge", scheme: str = "w4a8", **wish: Any) -> Outcome:
    place = place_of(CATALOGUE[machine], EFFICIENCY, BOOK)
    return evaluate(counted("scout-mini", scheme), scheme, place, EFFICIENCY, Wish(**wish))


def test_the_users_served_are_the_most_that_fit_and_get_their_rate() -> None:
    wish = Wish(context=4096, rate_tokens_per_s=5.0)
    place = place_of(CATALOGUE["aws-c7i-4xlarge"], EFFICIENCY, BOOK)
    found = evaluate(MINI, "w4a8", place, EFFICIENCY, wish)
    assert found.users > 1
    assert decode_rate(MINI, place, found.users, wish) >= 5.0
    too_many = found.users + 1
    assert decode_rate(MINI, place, too_many, wish) < 5.0 or needed_bytes(MINI, place.shares, too_many, wish) > (
        place.memory_bytes
    )


def test_memory_bounds_the_users_where_speed_does_not() -> None:
    place = place_of(CATALOGUE["aws-c7i-4xlarge"], EFFICIENCY, BOOK)
    per_user = cache_pool_bytes(MINI, 1, 8192, "bf16")
    tight = replace(place, memory_bytes=needed_bytes(MINI, place.shares, 1, Wish()) + 3.5 * per_user)
    assert evaluate(MINI, "w4a8", tight, EFFICIENCY, Wish(rate_tokens_per_s=0.01)).users == 4


def test_a_model_that_does_not_fit_is_short_by_so_many_gigabytes() -> None:
    found = plan("raspberry-pi-5-16gb", "bf16", context=131072, users=3)
    assert found.fits
    found = plan("jetson-orin-nano-super-8gb", "bf16")
    assert (found.fits, found.users, found.machines, found.per_month) == (False, 0, None, None)
    needed = (8_838_193_152 + cache_pool_bytes(counted("scout-mini", "bf16"), 1, 8192, "bf16") + LOADER_BYTES) / 1e9
    assert f"needs {needed:.1f} GB, 7.2 GB usable, {needed - 7.2:.1f} GB short" in found.why


def test_what_is_too_slow_says_how_much() -> None:
    found = plan(rate_tokens_per_s=1000.0)
    assert found.users == 0
    assert "of 1000 tokens/s" in found.why
    assert found.missing[0].times == pytest.approx(1000 / found.decode.value)


def test_costs_are_the_price_over_what_is_done_in_an_hour() -> None:
    found = plan(context=1024, users=1000)
    price = BOOK.machine("aws-c7i-4xlarge").per_hour
    assert found.machines == -(-1000 // found.users)
    assert found.per_month == pytest.approx(found.machines * price * HOURS_PER_MONTH)
    assert found.output_per_million == pytest.approx(price / 3600 / found.total_tokens_per_s.value * 1e6)
    assert found.input_per_million == pytest.approx(price / 3600 / found.prefill.value * 1e6)


def test_a_budget_that_is_too_small_says_by_how_much() -> None:
    free = plan(users=4)
    assert free.meets
    assert free.per_month is not None
    assert free.output_per_million is not None
    found = plan(users=4, per_month=free.per_month - 1, per_million=free.output_per_million / 2)
    assert "a month, 1.00 above the budget" in found.why
    assert "1M output tokens" in found.why
    assert [item.kind for item in found.missing] == ["price", "price"]


def test_a_machine_without_a_price_is_counted_by_its_electricity_and_never_the_cheapest() -> None:
    own, rented = plan("xeon-8592-plus"), plan("aws-r7i-16xlarge")
    assert own.place.price_note == "electricity only"
    assert BOOK.power is not None
    assert own.place.per_hour == pytest.approx(0.350 * BOOK.power.per_kwh)
    assert cheapest([own, rented]) is rented
    assert cheapest([own]) is None
    book = replace(BOOK, power=None)
    nameless = place_of(CATALOGUE["xeon-8592-plus"], EFFICIENCY, book)
    found = evaluate(MINI, "w4a8", nameless, EFFICIENCY, Wish(per_month=1.0))
    assert "none known" in found.why


def test_the_cheapest_is_the_least_a_month_of_those_that_meet_the_wish() -> None:
    found = [
        plan(machine, scheme, users=30, context=2048, rate_tokens_per_s=8.0)
        for machine in CATALOGUE
        for scheme in ("bf16", "w8a8", "w4a8")
    ]
    best = cheapest(found)
    assert best is not None
    assert best.per_month is not None
    for other in found:
        if other.meets and other.place.price_note == "rent":
            assert other.per_month is not None
            assert other.per_month >= best.per_month


def test_the_nearest_to_an_impossible_wish_lacks_money_before_speed_before_memory() -> None:
    dear, slow = plan(per_month=1.0), plan(rate_tokens_per_s=1e6)
    slower, large = plan(rate_tokens_per_s=1e7), plan("jetson-orin-nano-super-8gb", "bf16")
    assert sorted([large, slower, slow, dear], key=closeness) == [dear, slow, slower, large]


def test_ranges_hold_the_prediction_and_are_wider_for_machines_from_a_data_sheet() -> None:
    found = plan()
    for figure in (found.decode, found.prefill, found.total_tokens_per_s):
        assert figure.low <= figure.value <= figure.high
    here = replace(place_of(CATALOGUE["aws-c7i-4xlarge"], EFFICIENCY, BOOK), unsure=1.0)
    measured = evaluate(MINI, "w4a8", here, EFFICIENCY, Wish())
    assert measured.decode.high < found.decode.high


def test_more_bits_are_never_faster_where_memory_is_the_limit() -> None:
    rates = [plan(scheme=scheme).decode.value for scheme in ("bf16", "w8a8", "w4a8")]
    assert rates == sorted(rates)
