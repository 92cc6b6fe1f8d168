"""The best ids of a row, without sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu import drawing
from twofold.backends.gpu.kernels import cut
from twofold.backends.gpu.kernels.candidates import ROOM, best_keys
from twofold.backends.gpu.sampling import settings_of
from twofold.ops import sampling
from twofold.ops.types import RowSampling

Logits = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def logits(scale: float, vocabulary: int = 20_000) -> Logits:
    return (np.random.default_rng(8).normal(size=(3, vocabulary)) * scale).astype(np.float32)


def found(values: Logits, wanted: list[int]) -> tuple[list[list[int]], list[int], list[int]]:
    logits_RV = torch.from_numpy(values)
    keys, counts, totals = best_keys(logits_RV, logits_RV.amax(dim=1), torch.tensor(wanted))
    return (
        [
            row[:count].tolist()
            for row, count in zip(drawing.LOWEST - (keys & drawing.LOWEST), counts.tolist(), strict=True)
        ],
        counts.tolist(),
        totals.tolist(),
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_candidates_are_the_best_in_their_order(scale: float) -> None:
    values = logits(scale).round(4)
    wanted = [1, 50, 1024]
    ids, counts, totals = found(values, wanted)
    for row, mine in enumerate(ids):
        assert ROOM >= counts[row] >= wanted[row]
        assert mine == np.argsort(-values[row], kind="stable")[: counts[row]].tolist()
    assert totals == [20_000] * 3


def test_what_is_banned_is_no_candidate() -> None:
    values = logits(2.0, 9000)
    values[:, 5:] = -np.inf
    values[1, 2] = -0.0
    ids, counts, totals = found(values, [3, 1024, 1024])
    assert (counts[1:], totals) == ([5, 5], [5, 5, 5])
    assert ids[1] == np.argsort(-values[1], kind="stable")[:5].tolist()


def test_too_many_equal_ones_are_no_candidates_at_all() -> None:
    values = logits(1.0)
    values[1] = 4.0
    assert found(values, [10, 10, 10])[1][1] == 0


SETTINGS: list[dict[str, float]] = [
    {"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.1}, {"top_k": 400, "top_p": 0.9, "temperature": 0.6}, {"top_k": 1},
    {"top_p": 0.9, "min_p": 0.05}, {"top_p": 1e-9}, {"top_k": 1500, "min_p": 0.01},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_cut_row_is_drawn_from_its_candidates_as_on_the_host(settings: dict[str, float], scale: float) -> None:
    """And where they are not enough to know, as with flat rows, both ways say so."""
    values = logits(scale)
    rows = [RowSampling(seed=seed, **settings) for seed in range(3)]  # type: ignore[arg-type]
    logits_RV, settings_RF = torch.from_numpy(values), torch.from_numpy(settings_of(rows, values.shape[1]))
    best_R = logits_RV.amax(dim=1)
    wanted = torch.tensor([row.top_k or drawing.CANDIDATES for row in rows])
    sums_RS = drawing.stretch_sums(logits_RV, best_R, settings_RF[:, 0].float())
    keys, found_R, totals_R = best_keys(logits_RV, best_R, wanted)
    best = drawing.Best(drawing.LOWEST - (keys & drawing.LOWEST), found_R, totals_R)
    expected, is_known = drawing.draw_cut(logits_RV, best_R, sums_RS, settings_RF, best)
    tokens, known = cut.draw(logits_RV, best_R, settings_RF, sums_RS, (keys, found_R, totals_R))
    assert known.tolist() == is_known.tolist()
    on_host = [item.token for item in sampling.sample(values, rows)]
    for row in range(3):
        if known[row]:
            assert tokens[row] == expected[row] == on_host[row]
    assert known.all() or (scale == 1.0 and settings.get("top_p", 1) > 0.5)
