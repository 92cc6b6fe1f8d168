"""How many tokens are guessed and from which source, in worlds whose costs and odds are known; no clock runs here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from benchmarks.networks import SCOUT_MINI
from tests.models.test_configs import SCOUT
from twofold.engine.policy import BASE_STEPS, LENGTHS, Choice, GuessPolicy, Record, Source, StepTimes, record_of
from twofold.models.registry import read_architecture
from twofold.ops.cost import footprint, row_costs
from twofold.quant.schemes import scheme

FLAT = (1.0,) * 16


@dataclass
class World:
    """A machine and a text: seconds of a step by its rows, and how often a guess of each source comes true."""

    seconds: Callable[[int], float]
    odds: dict[Source, float]
    draft_s: float = 0.0
    seed: int = 7

    def serve(self, policy: GuessPolicy, steps: int) -> tuple[list[tuple[Source, int]], float]:
        """What each step guessed, and tokens per second."""
        source = random.Random(self.seed)
        chosen, tokens, clock = [], 0, 0.0
        for _ in range(steps):
            best = next(iter(policy.choices(1)), Choice(source="lookup", length=0, rate=0.0))
            chosen.append((best.source, best.length))
            kept = 0
            while kept < best.length and source.random() < self.odds[best.source]:
                kept += 1
            drafted_s = self.draft_s * best.length if best.source == "draft" else 0.0
            step_s = self.seconds(1 + best.length)
            if drafted_s:
                policy.learn_draft(best.length, drafted_s)
            policy.learn_step(1 + best.length, step_s, step_s + drafted_s)
            if best.length:
                policy.records[best.source].learn(kept, is_refuted=kept < best.length)
            tokens, clock = tokens + kept + 1, clock + step_s + drafted_s
        return chosen, tokens / clock


def share(chosen: list[tuple[Source, int]], wanted: Callable[[Source, int], bool]) -> float:
    return sum(wanted(*item) for item in chosen) / len(chosen)


def test_free_rows_and_true_guesses_make_long_guesses() -> None:
    world = World(seconds=lambda rows: 0.1, odds={"lookup": 0.95})
    chosen, _ = world.serve(GuessPolicy(7, FLAT), 400)
    assert share(chosen[50:], lambda _, length: length == 7) > 0.9


@pytest.mark.parametrize("odds", [0.0, 0.2])
def test_guessing_switches_itself_off_when_guesses_are_wrong(odds: float) -> None:
    world = World(seconds=lambda rows: 0.1 * (1 + 0.3 * (rows - 1)), odds={"lookup": odds, "draft": odds}, draft_s=0.02)
    chosen, rate = world.serve(GuessPolicy(7, FLAT, draft_cost=0.1), 600)
    assert share(chosen[100:], lambda _, length: length == 0) > 0.93
    assert rate > 0.93 * 10  # tokens per second without guessing


def test_guessing_switches_itself_off_when_rows_cost_too_much() -> None:
    world = World(seconds=lambda rows: 0.1 * rows, odds={"lookup": 0.8})
    chosen, _ = world.serve(GuessPolicy(7, FLAT), 600)
    assert share(chosen[100:], lambda _, length: length == 0) > 0.93


def test_guessing_comes_back_when_the_text_changes() -> None:
    policy = GuessPolicy(7, FLAT)
    World(seconds=lambda rows: 0.1 + 0.02 * rows, odds={"lookup": 0.0}).serve(policy, 300)
    assert policy.choices(1)[0].length == 0
    chosen, _ = World(seconds=lambda rows: 0.1 + 0.02 * rows, odds={"lookup": 0.9}).serve(policy, 1500)
    assert share(chosen[-200:], lambda _, length: length >= 3) > 0.8


def test_the_better_source_is_asked_first() -> None:
    odds: dict[Source, float] = {"lookup": 0.3, "draft": 0.9}
    chosen, _ = World(seconds=lambda rows: 0.1 + 0.005 * rows, odds=odds, draft_s=0.005).serve(
        GuessPolicy(7, FLAT, draft_cost=0.05), 400
    )
    assert share(chosen[100:], lambda source, length: source == "draft" and length >= 3) > 0.85


def test_a_draft_as_slow_as_the_network_is_left_alone() -> None:
    odds: dict[Source, float] = {"lookup": 0.0, "draft": 1.0}
    world = World(seconds=lambda rows: 0.1 + 0.01 * rows, odds=odds, draft_s=0.11)
    chosen, rate = world.serve(GuessPolicy(7, FLAT, draft_cost=1.0), 600)
    assert share(chosen[100:], lambda _, length: length == 0) > 0.9
    assert rate > 0.93 / 0.11


def started(costs: Sequence[float], draft_cost: float | None = None) -> GuessPolicy:
    """A policy that knows steps without guesses and nothing else."""
    policy = GuessPolicy(7, costs, draft_cost)
    for rows in (1, 2) * BASE_STEPS:
        assert policy.choices(rows) == []
        policy.learn_step(rows, 0.1 * costs[rows - 1], 0.1)
    return policy


def test_two_sequences_count_the_rows_of_both() -> None:
    policy = started([1.0 if rows <= 8 else 10.0 for rows in range(1, 17)])
    assert policy.choices(1)[0].length == 7
    assert policy.choices(2)[0].length == 3


def scout_costs(config: dict[str, object], dtype: str) -> tuple[float, ...]:
    architecture = read_architecture(config)
    targets = architecture.targets(["model.layers.0.feed_forward.experts.gate_up_proj"])
    return row_costs(footprint(targets, scheme(dtype), architecture.active_experts, False), 16, 16)


def test_a_mixture_of_experts_starts_with_shorter_guesses_than_a_dense_network() -> None:
    assert started(FLAT).choices(1)[0].length == 7
    for config in (SCOUT, SCOUT_MINI):
        costs = scout_costs(config, "w4a8")
        assert 1.5 < costs[7] < 6.4  # eight rows of sixteen experts meet 6.5 of them; what is shared is read once
        assert started(costs).choices(1)[0].length < 7
    only_experts = tuple(16 * (1 - (15 / 16) ** rows) for rows in range(1, 17))
    assert started(only_experts).choices(1)[0].length == 0


def test_times_not_measured_are_scaled_from_the_nearest_by_the_cost_model() -> None:
    times = StepTimes((1.0, 1.5, 1.9, 2.2))
    assert times.of(3) == 1.9
    times.learn(2, 0.3)
    assert times.of(1) == pytest.approx(0.2)
    assert times.of(4) == pytest.approx(0.44)
    times.learn(4, 0.64)
    assert times.of(4) == pytest.approx(0.64)
    times.learn(4, 0.54)
    assert times.of(4) == pytest.approx(0.59)
    assert times.of(9) == pytest.approx(0.59)  # beyond the table as its end


def test_a_guess_cut_off_by_the_end_of_an_answer_refutes_nothing() -> None:
    record = record_of("lookup")
    record.learn(0, is_refuted=False)
    assert record == fresh_like(record)
    record.learn(2, is_refuted=False)
    assert record.first.value > 0.5
    assert record.later.value > 0.8


def fresh_like(record: Record) -> Record:
    assert (record.first.value, record.later.value) == (0.5, 0.8)
    return record


def test_expected_tokens_count_the_row_that_is_drawn_anyway() -> None:
    record = record_of("draft")
    assert [round(record.expected(length), 4) for length in LENGTHS] == [1.0, 1.7, 2.533, 3.1412]


def test_reading_a_long_text_must_pay() -> None:
    policy = started(FLAT, draft_cost=0.1)
    policy.learn_draft(1, 0.01)
    policy.learn_reading(100, 0.2)
    choice = next(choice for choice in policy.choices(1) if choice.source == "draft")
    assert policy.pays_to_read(100, 50, choice, 1)
    assert not policy.pays_to_read(100_000, 50, choice, 1)
    assert not policy.pays_to_read(100, 0, choice, 1)


def test_probes_wait_for_as_long_as_reading_takes() -> None:
    """A draft model far behind is probed less often than one that has read along, and never at once."""
    seen = {}
    for behind in (0, 10_000):
        policy = started(FLAT, draft_cost=1.0)
        policy.learn_draft(1, 0.1)
        probes = 0
        for _ in range(500):
            choice = next(choice for choice in policy.choices(1, behind) if choice.source == "draft")
            policy.learn_step(1, 0.1, 0.1)
            if choice.length:
                probes += 1
                policy.records["draft"].learn(0, is_refuted=True)
        seen[behind] = probes
    assert seen[0] > 5
    assert seen[10_000] == 0


def test_guesses_are_worth_more_in_a_step_that_takes_long_anyway() -> None:
    steep = tuple(float(rows) for rows in range(1, 17))  # a guessed row costs what a drawn one does
    policy = started(steep)
    assert policy.choices(1)[0].length == 0
    policy.beside_s = 3 * policy.times.of(1)  # a piece of somebody's prompt
    assert policy.choices(1)[0].length == 3
    policy.beside_s = 0.0
    assert policy.choices(1)[0].length == 0


def test_a_step_with_a_prompt_in_it_says_nothing_about_steps_without() -> None:
    policy = started(FLAT)
    before = policy.times.of(1)
    policy.learn_step(None, 5.0, 5.0)
    assert policy.times.of(1) == before
    assert policy.records["lookup"].waited_s > 5.0
