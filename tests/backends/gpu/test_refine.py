"""Refined heads: the residual in the best panels only, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.backends.gpu.integer_weights import CPU, REFERENCE
from twofold.backends.gpu.codes import quantize
from twofold.backends.gpu.kernels import refine as refining
from twofold.backends.gpu.kernels.integer_many import many
from twofold.backends.gpu.weights import RefinedWeight, to_device
from twofold.ops import cases, packed


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "columns", "panels"),
    [(0, 40, 72, 64), (2, 40, 72, 64), (2, 85, 96, 2), (1, 53, 64, 1), (3, 85, 96, 2)],
)
def test_the_best_panels_get_the_residual(
    tokens: int, vocabulary: int, columns: int, panels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many panels: fewer than the format says, so that small heads have some that are left out."""

    def few_panels(rows: int) -> int:
        return min(panels, -(-rows // 16))

    monkeypatch.setattr(refining, "refined_panels", few_panels)
    monkeypatch.setattr(packed, "refined_panels", few_panels)
    rng = cases.generator(tokens, vocabulary)
    x_TD, values = cases.outliers(rng, tokens, columns), cases.normal(rng, vocabulary, columns)
    check(x_TD, values)


def test_of_equal_panels_the_first_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "refined_panels", lambda rows: 2)
    monkeypatch.setattr(packed, "refined_panels", lambda rows: 2)
    check(np.ones((1, 64), np.float32), np.full((70, 64), 0.7, np.float32))


Scores = Callable[[np.random.Generator, int], packed.Floats]
SCORES: dict[str, Scores] = {
    "even": lambda rng, count: rng.standard_normal(count, np.float32),
    "rounded, so that many are equal": lambda rng, count: np.round(rng.standard_normal(count, np.float32)),
    "all equal": lambda rng, count: np.full(count, -0.7, np.float32),
    "zeros of both signs": lambda rng, count: rng.choice(np.array([0.0, -0.0], np.float32), count),
    "the best together": lambda rng, count: rng.standard_normal(count, np.float32) + 9.0 * (np.arange(count) < 6000),
    "infinite": lambda rng, count: rng.choice(
        np.array([-np.inf, np.inf, 1.0], np.float32), count, p=[0.99, 4e-4, 0.0096]
    ),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("vocabulary", "chosen"), [(16, 1), (1000, 20), (32000, 64), (33001, 100)])
def test_the_choice_is_that_of_a_stable_sort(kind: str, vocabulary: int, chosen: int) -> None:
    rng = cases.generator(vocabulary, chosen)
    y_RV = np.stack([SCORES[kind](rng, vocabulary).astype(np.float32) for _ in range(2)])
    panels_RPN = np.pad(y_RV, ((0, 0), (0, -vocabulary % 16)), constant_values=-np.inf).reshape(2, -1, 16)
    best_RC = np.argsort(-panels_RPN.max(axis=2), axis=1, kind="stable")[:, :chosen]
    found_RC = refining.best_panels(torch.from_numpy(y_RV), chosen)
    assert np.array_equal(found_RC.numpy(), np.sort(best_RC, axis=1))


def test_a_published_vocabulary_is_chosen_from() -> None:
    y_RV = cases.generator(7).standard_normal((1, 202048), np.float32)
    best_RC = np.argsort(-y_RV.reshape(1, -1, 16).max(axis=2), axis=1, kind="stable")[:, :198]
    found_RC = refining.best_panels(torch.from_numpy(y_RV), 198)
    assert np.array_equal(found_RC.numpy(), np.sort(best_RC, axis=1))


def check(x_TD: packed.Floats, values: packed.Floats) -> None:
    head = cases.pack(REFERENCE, "refined", values)
    weight = to_device(head, CPU)
    assert isinstance(weight, RefinedWeight)
    codes = quantize(torch.from_numpy(x_TD))
    y_RV = many(codes, weight.coarse)
    refining.refine(codes, weight, y_RV)
    assert np.array_equal(y_RV.numpy(), REFERENCE.logits(x_TD, head))
