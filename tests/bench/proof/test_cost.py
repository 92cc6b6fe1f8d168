"""Money follows from seconds: checked by hand for round numbers."""

from __future__ import annotations

from datetime import date
from math import isclose

import pytest

from twofold.bench.prices import Hosted
from twofold.bench.proof.cost import HOURS_A_MONTH, cost_of
from twofold.bench.proof.model import Role, Run, Sample

PRICE = (3.6, "EUR", "as given")  # a thousandth of a euro per second


def run(role: Role, seconds: float) -> Run:
    return Run(round=0, role=role, seconds=seconds, figures={})


def answer(role: Role, tokens: int) -> Sample:
    return Sample(round=0, role=role, request=0, first_s=1.0, total_s=4.0, prompt_tokens=300, answer_tokens=tokens)


RUNS = [run("baseline", 10.0), run("candidate", 4.0)]
SAMPLES = [answer("baseline", 100), answer("candidate", 100)]


def offer(price: float) -> Hosted:
    return Hosted(input_per_million=price / 10, output_per_million=price, source="a page", noted=date(2026, 1, 1))


def test_a_run_is_split_by_waiting_and_adds_up_to_its_price() -> None:
    cost = cost_of(RUNS, SAMPLES, PRICE, {}, None)
    assert cost
    assert isclose(cost.per_million_input["baseline"], 0.010 * 0.25 / 300 * 1e6)
    assert isclose(cost.per_million_output["baseline"], 0.010 * 0.75 / 100 * 1e6)
    whole = cost.per_million_input["candidate"] * 300 + cost.per_million_output["candidate"] * 100
    assert isclose(whole, 0.004 * 1e6)
    assert isclose(cost.per_request["candidate"], 0.004)


def test_little_use_is_dear_and_full_use_costs_what_the_run_did() -> None:
    cost = cost_of(RUNS, SAMPLES, PRICE, {}, None)
    assert cost
    volume, unit = cost.curve["candidate"][0]
    full = 100 / 4 * 3600 * HOURS_A_MONTH
    assert isclose(volume, full / 100)
    assert isclose(unit, 3.6 * HOURS_A_MONTH / volume * 1e6)
    least = min(unit for _, unit in cost.curve["candidate"])
    assert least >= 0.004 / 100 * 1e6 * 0.999
    units = [unit for volume, unit in cost.curve["baseline"] if volume <= 100 / 10 * 3600 * HOURS_A_MONTH]
    assert units == sorted(units, reverse=True)


def test_a_hosted_price_counts_the_input_too_and_has_a_volume_from_which_it_is_dearer() -> None:
    cost = cost_of(RUNS, SAMPLES, PRICE, {"cheap": offer(1.0), "dear": offer(100.0)}, None)
    assert cost
    assert isclose(cost.hosted["dear"], 100 + 3 * 10)
    assert cost.break_even_tokens["cheap"] is None
    tokens = cost.break_even_tokens["dear"]
    assert tokens
    assert isclose(tokens * 130 / 1e6, 3.6 * HOURS_A_MONTH)


def test_the_saving_counts_whole_machines() -> None:
    tokens = 100 / 10 * 3600 * HOURS_A_MONTH * 2  # two machines as it is, one with the candidate
    cost = cost_of(RUNS, SAMPLES, PRICE, {}, tokens)
    assert cost
    assert cost.monthly_saving == pytest.approx(3.6 * HOURS_A_MONTH)
    assert "take 2 machines as it is and 1 with the candidate" in " ".join(cost.notes)


def test_without_tokens_there_is_no_cost() -> None:
    assert cost_of(RUNS, [answer("baseline", 100)], PRICE, {}, None) is None
