"""Drawing tokens: the cuts, the penalties, the distribution, and independence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twofold.errors import BadLogits, InvalidSampling
from twofold.ops.sampling import best_indices, candidates, draw, invert, sample, stretch_sums
from twofold.ops.types import RowSampling

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32)
LOGITS = np.log(PROBABILITIES)


def kept(**settings: Any) -> list[int]:
    return candidates(LOGITS, float(LOGITS.max()), RowSampling(**settings))[0].tolist()


def test_top_k_keeps_the_best() -> None:
    assert kept(top_k=2) == [1, 3]
    assert kept(top_k=4) == [1, 3, 4, 2]
    assert kept(top_k=99) == kept()


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.3, [1]), (0.5, [1, 3]), (0.64, [1, 3]), (0.8, [1, 3, 4]), (0.97, [1, 3, 4, 2, 0])]
)
def test_top_p_keeps_the_smallest_set_that_fills_it(top_p: float, expected: list[int]) -> None:
    assert kept(top_p=top_p) == expected


def test_min_p_is_relative_to_the_best() -> None:
    assert kept(min_p=0.49) == [1, 3, 4]
    assert kept(min_p=1.0) == [1]


def test_top_p_is_taken_of_what_top_k_left() -> None:
    assert kept(top_k=2, top_p=0.6) == [1]


def test_leaving_out_hopeless_ids_changes_nothing() -> None:
    seed = 11
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    for _ in range(50):
        logits = (random.normal(size=500) * random.uniform(0.1, 6)).astype(np.float32)
        top_p = float(random.uniform(0.05, 0.999))
        order = np.argsort(-logits, kind="stable")
        weights = np.exp(logits - logits.max())
        best = weights[order].astype(np.float64)
        expected = order[np.cumsum(best) - best < top_p * best.sum()]
        ids, found = candidates(logits, float(logits.max()), RowSampling(top_p=top_p))
        assert ids.tolist() == expected.tolist()
        assert found.tolist() == weights[expected].tolist()


@pytest.mark.parametrize("top_k", [1, 7, 40, 499])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_the_best_few_have_the_weights_that_all_would_have(top_k: int, temperature: float) -> None:
    logits = np.random.default_rng(13).normal(size=500).astype(np.float32).round(1)  # with ties
    scaled = logits / np.float32(temperature)
    order = np.argsort(-logits, kind="stable")[:top_k]
    ids, found = candidates(logits, float(logits.max()), RowSampling(top_k=top_k, temperature=temperature))
    assert ids.tolist() == order.tolist()
    assert found.tolist() == np.exp(scaled - scaled.max())[order].tolist()


def test_draws_follow_the_distribution() -> None:
    rows = [RowSampling(seed=3, step=step) for step in range(20000)]
    counts = np.bincount([item.token for item in sample(np.tile(LOGITS, (20000, 1)), rows)], minlength=5)
    np.testing.assert_allclose(counts / 20000, np.exp(LOGITS), atol=0.012)


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    tokens = [draw(LOGITS, RowSampling(temperature=0.05, seed=1, step=step)).token for step in range(50)]
    assert tokens == [1] * 50
    assert draw(np.array([1.0, 3.0, 3.0], np.float32), RowSampling(temperature=0)).token == 1


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = np.random.default_rng(5).normal(size=(8, 40)).astype(np.float32)
    rows = [RowSampling(seed=seed, step=2, top_p=0.9) for seed in range(8)]
    assert [draw(logits[i], rows[i]).token for i in range(8)] == [item.token for item in sample(logits, rows)]


def test_penalties_do_what_the_api_says() -> None:
    logits = np.array([2.0, -1.0, 0.5], np.float32)

    def best(**settings: Any) -> int:
        return draw(logits, RowSampling(temperature=0, **settings)).token

    assert best(repetition_penalty=5.0, prompt=(0,)) == 2
    assert best(presence_penalty=1.6, generated=(0,)) == 2
    assert best(frequency_penalty=0.8, generated=(0, 0)) == 2
    assert best(frequency_penalty=0.8, generated=(0,)) == 0
    assert best(logit_bias=((1, 10.0),)) == 1
    assert best(banned=(0, 2)) == 1


def test_logprobs_are_of_the_unmodified_logits() -> None:
    drawn = draw(LOGITS, RowSampling(temperature=0, logit_bias=((0, 50.0),), logprobs=2))
    assert drawn.token == 0
    assert drawn.logprob == pytest.approx(np.log(0.05), abs=1e-6)
    assert [token for token, _ in drawn.alternatives] == [1, 3]


def test_ties_go_to_the_lower_index() -> None:
    assert best_indices(np.array([1.0, 2.0, 2.0, 2.0], np.float32), 2, [2.0]).tolist() == [1, 2]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("count", [0, 1, 7, 299, 300, 400])
def test_the_best_are_found_however_far_apart_they_are(scale: float, count: int) -> None:
    values = (np.random.default_rng(2).normal(size=300) * scale).astype(np.float32)
    assert (
        best_indices(values, count, [float(values.max()) - 2, -1.0]).tolist()
        == np.argsort(-values, kind="stable")[:count].tolist()
    )


def test_a_sum_of_exponentials_does_not_overflow() -> None:
    drawn = draw(np.array([1000.0, 1000.0], np.float32), RowSampling(temperature=0, logprobs=0))
    assert drawn.logprob == pytest.approx(-np.log(2))


@pytest.mark.parametrize("count", [1, 5, 1023, 1024, 1025, 5000])
def test_inverting_the_running_sum_finds_the_right_index(count: int) -> None:
    weights = np.random.default_rng(count).random(count).astype(np.float32)
    sums = np.cumsum(weights.astype(np.float64))
    for uniform in (0.0, 0.1, 0.5, 0.999999):
        expected = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
        assert abs(invert(weights, stretch_sums(weights), uniform) - expected) <= (0 if count < 1024 else 1)
    assert invert(weights, stretch_sums(weights), np.nextafter(1.0, 0.0)) < count


def test_a_token_that_is_known_is_judged_and_nothing_is_drawn() -> None:
    logits = np.array([1.0, 3.0, 2.0, 3.0], np.float32)
    found = draw(logits, RowSampling(token=2, logprobs=2, temperature=1.0, banned=(2,)))
    assert (found.token, found.rank) == (2, 3)
    assert found.logprob == pytest.approx(float(np.log(np.exp(2.0) / np.exp(logits).sum())))
    assert [token for token, _ in found.alternatives] == [1, 3]
    assert draw(logits, RowSampling(token=3, logprobs=0)).rank == 1


def test_banning_everything_is_the_fault_of_the_settings_and_not_of_the_weights() -> None:
    with pytest.raises(InvalidSampling, match="no token may come next"):
        draw(np.zeros(3, np.float32), RowSampling(banned=(0, 1, 2)))
    with pytest.raises(BadLogits):
        draw(np.full(3, -np.inf, np.float32), RowSampling(banned=(0, 1, 2)))
    with pytest.raises(BadLogits):
        draw(np.full(3, np.nan, np.float32), RowSampling(token=1))


@pytest.mark.parametrize("temperature", [1e-264, 1e-45, 1e-38, 1e-30, 1e-10, 1e-5])
@pytest.mark.parametrize("cut", [{}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}])
def test_the_smallest_temperatures_draw_the_best_token(temperature: float, cut: dict[str, Any]) -> None:
    logits = np.array([1.0, -3.0, 30.0, 29.5, -np.inf, 2.0], np.float32)
    for seed in range(20):
        assert sample(logits[None], [RowSampling(temperature=temperature, seed=seed, **cut)])[0].token == 2
    tied = np.array([5.0, 5.0, 1.0], np.float32)
    drawn = {
        sample(tied[None], [RowSampling(temperature=temperature, seed=seed, **cut)])[0].token for seed in range(40)
    }
    assert drawn == {0, 1}
