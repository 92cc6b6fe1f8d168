"""Drawing tokens: the cuts, the penalties, the distribution, and independence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twofold.ops.sampling import candidates, draw, sample, top_indices
from twofold.ops.types import RowSampling

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32))


def kept(**settings: Any) -> list[int]:
    return candidates(LOGITS, RowSampling(**settings))[0].tolist()


def test_top_k_keeps_the_best() -> None:
    assert kept(top_k=2) == [1, 3]
    assert kept(top_k=99) == [1, 3, 4, 2, 0]


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
        weights = np.exp((logits - logits.max()).astype(np.float64))[order]
        expected = order[np.cumsum(weights) - weights < top_p * weights.sum()]
        assert candidates(logits, RowSampling(top_p=top_p))[0].tolist() == expected.tolist()


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
    assert top_indices(np.array([1.0, 2.0, 2.0, 2.0], np.float32), 2).tolist() == [1, 2]
