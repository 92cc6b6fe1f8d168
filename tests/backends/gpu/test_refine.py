"""Refined heads: the residual in the best panels only, bit for bit."""

from __future__ import annotations

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
    ("tokens", "vocabulary", "columns", "panels"), [(0, 40, 72, 64), (2, 40, 72, 64), (2, 85, 96, 2), (1, 53, 64, 1)]
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


def check(x_TD: packed.Floats, values: packed.Floats) -> None:
    head = cases.pack(REFERENCE, "refined", values)
    weight = to_device(head, CPU)
    assert isinstance(weight, RefinedWeight)
    codes = quantize(torch.from_numpy(x_TD))
    y_RV = many(codes, weight.coarse)
    refining.refine(codes, weight, y_RV)
    assert np.array_equal(y_RV.numpy(), REFERENCE.logits(x_TD, head))
