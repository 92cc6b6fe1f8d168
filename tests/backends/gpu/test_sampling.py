"""Drawing on torch tensors: the results of ops.sampling, row by row and in one batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from twofold.backends.gpu import drawing
from twofold.backends.gpu.sampling import sample
from twofold.errors import BadLogits, InvalidSampling
from twofold.ops import sampling
from twofold.ops.types import Drawn, RowSampling

VOCABULARY = 5000
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {},
    {"temperature": 0.3},
    {"temperature": 1e-45},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 2000, "top_p": 0.95},
    {"top_k": 99999},
    {"top_p": 0.9},
    {"top_p": 0.9999, "temperature": 20.0},
    {"min_p": 0.05},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 0.7},
    {"repetition_penalty": 1.3, "prompt": (3, 4, 4, 7), "generated": (7, 9)},
    {"presence_penalty": 0.5, "frequency_penalty": 0.7, "generated": (1, 1, 5)},
    {"logit_bias": ((4, 9.0), (11, -3.5)), "temperature": 0.0},
    {"banned": (0, 1, 2), "top_k": 5},
    {"allowed": bytes([0b1010, 0, 255] * 9), "temperature": 1.2},
    {"allowed": bytes([7] * 1000), "temperature": 0.0, "banned": (0,), "logprobs": 3},
    {"logprobs": 0},
    {"logprobs": 5, "top_p": 0.7},
    {"token": 17, "logprobs": 2},
    {"token": 4999},
)


def logits(rows: int, scale: float = 3.0, vocabulary: int = VOCABULARY) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(rows).normal(size=(rows, vocabulary)) * scale).astype(np.float32)


def same(got: Drawn, expected: Drawn) -> bool:
    """Equal but for the rounding of log-probabilities."""
    if (got.token, got.rank) != (expected.token, expected.rank):
        return False
    if [token for token, _ in got.alternatives] != [token for token, _ in expected.alternatives]:
        return False
    mine = [got.logprob, *(value for _, value in got.alternatives)]
    other = [expected.logprob, *(value for _, value in expected.alternatives)]
    return all(
        a == b or (a is not None and b is not None and abs(a - b) < 1e-5) for a, b in zip(mine, other, strict=True)
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_is_drawn_as_on_the_host(settings: dict[str, Any]) -> None:
    for seed in range(12):
        row = RowSampling(seed=seed, step=seed * 3, **settings)
        values = logits(1) if seed % 2 else logits(1).round(1)  # with ties
        (got,) = sample(torch.from_numpy(values), [row])
        assert same(got, sampling.draw(values[0], row)), seed


def test_rows_of_all_kinds_are_drawn_together() -> None:
    rows = [RowSampling(seed=seed, **settings) for seed, settings in enumerate(SETTINGS)]
    values = logits(len(rows))
    got = sample(torch.from_numpy(values), rows)
    for mine, expected in zip(got, sampling.sample(values, rows), strict=True):
        assert same(mine, expected)
    alone = [sample(torch.from_numpy(values[index : index + 1]), [row])[0] for index, row in enumerate(rows)]
    assert got == alone


@pytest.mark.parametrize("vocabulary", [1, 7, 1024, 1025, 3000])
def test_vocabularies_of_all_sizes(vocabulary: int) -> None:
    values = logits(6, 1.0, vocabulary)
    rows = [
        RowSampling(seed=seed, top_p=0.9 if seed % 2 else 1.0, top_k=3 * (seed % 3), logprobs=seed % 4 - 1)
        for seed in range(6)
    ]
    for mine, expected in zip(sample(torch.from_numpy(values), rows), sampling.sample(values, rows), strict=True):
        assert same(mine, expected)


def test_the_logits_are_left_alone_and_may_have_two_bytes() -> None:
    values = torch.from_numpy(logits(2)).bfloat16()
    before = values.clone()
    rows = [RowSampling(banned=(0,), seed=1), RowSampling(temperature=0.0)]
    got = sample(values, rows)
    assert torch.equal(values, before)
    assert got == sampling.sample(values.float().numpy(), rows)


def test_draws_follow_the_distribution() -> None:
    probabilities = np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32)
    rows = [RowSampling(seed=3, step=step) for step in range(8000)]
    values = torch.from_numpy(np.log(probabilities)).expand(8000, 5)
    counts = np.bincount([item.token for item in sample(values, rows)], minlength=5)
    np.testing.assert_allclose(counts / 8000, probabilities, atol=0.02)


def test_a_flat_row_that_keeps_more_than_the_candidates_is_still_right() -> None:
    values = logits(1, 0.01)
    assert VOCABULARY > 2 * drawing.CANDIDATES
    for seed in range(10):
        row = RowSampling(top_p=0.8, seed=seed)
        assert sample(torch.from_numpy(values), [row]) == [sampling.draw(values[0], row)]


def test_the_best_ids_are_in_the_order_of_a_stable_sort() -> None:
    values = np.array([[0.0, -0.0, 3.0, -2.0, 3.0, -np.inf, -1e-30, 1e-30, np.inf, 3.0]], np.float32)
    got = drawing.best_ids(torch.from_numpy(values), 10)
    assert got[0].tolist() == np.argsort(-values[0], kind="stable").tolist()


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"token": 1}, {"top_p": 0.5, "logprobs": 1}], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_reported(settings: dict[str, Any], bad: float) -> None:
    values = logits(3)
    values[1, 7] = bad
    if bad < 0:
        values[1] = bad
    rows = [RowSampling(), RowSampling(**settings), RowSampling(temperature=0.0)]
    with pytest.raises(BadLogits):
        sample(torch.from_numpy(values), rows)


def test_banning_everything_is_the_fault_of_the_settings() -> None:
    values = torch.zeros(1, 3)
    with pytest.raises(InvalidSampling, match="no token may come next"):
        sample(values, [RowSampling(banned=(0, 1, 2))])
    with pytest.raises(BadLogits):
        sample(values - math.inf, [RowSampling(banned=(0, 1, 2))])
    assert sample(values[:0], []) == []


def test_what_else_is_in_the_batch_does_not_matter() -> None:
    values = torch.from_numpy(logits(4))
    rows = [RowSampling(seed=seed, top_p=0.9) for seed in range(4)]
    others = [replace(row, banned=(1,), logprobs=2) if index else row for index, row in enumerate(rows)]
    assert sample(values, rows)[0] == sample(values, others)[0]
