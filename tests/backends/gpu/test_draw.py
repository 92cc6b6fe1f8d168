"""Drawing by kernels: sums of stretches, the place of a uniform number in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu import drawing
from twofold.backends.gpu.kernels.draw import draw
from twofold.backends.gpu.sampling import settings_of
from twofold.ops import sampling
from twofold.ops.types import RowSampling


@pytest.mark.parametrize("vocabulary", [1, 7, 1024, 1025, 9000])
def test_a_plain_draw_is_that_of_the_host(vocabulary: int) -> None:
    values = (np.random.default_rng(vocabulary).normal(size=(5, vocabulary)) * 3).astype(np.float32)
    rows = [RowSampling(seed=seed, temperature=0.5 + seed / 3) for seed in range(5)]
    logits_RV = torch.from_numpy(values)
    best_R, tokens_R = logits_RV.max(dim=1)
    settings_RF = torch.from_numpy(settings_of(rows, vocabulary))
    sums_RS = draw(logits_RV, best_R, settings_RF, tokens_R)
    assert tokens_R.tolist() == [item.token for item in sampling.sample(values, rows)]
    expected = drawing.stretch_sums(logits_RV, best_R, settings_RF[:, 0].float())
    torch.testing.assert_close(sums_RS, expected, rtol=1e-6, atol=0)


def test_rows_that_are_not_plain_keep_their_best_id() -> None:
    logits_RV = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 1.0]])
    rows = [RowSampling(temperature=0.0), RowSampling(top_k=1)]
    best_R, tokens_R = logits_RV.max(dim=1)
    draw(logits_RV, best_R, torch.from_numpy(settings_of(rows, 3)), tokens_R)
    assert tokens_R.tolist() == [1, 0]
