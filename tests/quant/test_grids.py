"""Rounding with searched scales: never worse than the plain kind, and what is claimed about its error holds."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.loading import open_model
from twofold.ops import packed
from twofold.ops.codes import Codes
from twofold.ops.levels import REACH, nearest
from twofold.quant.gptq import round_plainly
from twofold.quant.grids import Int4Grid, Int8Grid, fit_multipliers
from twofold.weights.checkpoint import Checkpoint

RANDOM = np.random.default_rng(0)
GAUSSIAN = RANDOM.standard_normal((64, 1024)).astype(np.float32)
HEAVY = RANDOM.standard_t(5, (64, 1024)).astype(np.float32)


def rounded(grid_class: type[Int4Grid] | type[Int8Grid], w_ND: np.ndarray, importance_D: np.ndarray) -> Codes:
    grid = grid_class(w_ND, importance_D)
    round_plainly(w_ND, importance_D, grid)
    return grid.codes()


def error(w_ND: np.ndarray, found_ND: np.ndarray) -> float:
    return float(np.square(w_ND - found_ND).sum() / np.square(w_ND).sum())


def plain_error(form: packed.Format, w_ND: np.ndarray) -> float:
    weight = packed.place(form, w_ND.shape, np.zeros(packed.size_bytes(form, w_ND.shape), np.uint8))
    packed.encode(w_ND, weight, 0)
    return error(w_ND, packed.decode(weight))


def q4_0_error(w_ND: np.ndarray) -> float:
    """llama.cpp's Q4_0: blocks of 32, one float16 scale that sends the extreme value to -8."""
    blocks = w_ND.reshape(-1, 32)
    extremes = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scales = (extremes / -8).astype(np.float16).astype(np.float32)
    return error(blocks, np.clip(np.floor(blocks / scales + 8.5), 0, 15) * scales - 8 * scales)


@pytest.mark.parametrize("w_ND", [GAUSSIAN, HEAVY], ids=["gaussian", "heavy-tailed"])
def test_searched_scales_beat_plain_ones(w_ND: np.ndarray) -> None:
    even = np.ones(w_ND.shape[1], np.float32)
    assert error(w_ND, rounded(Int4Grid, w_ND, even).values()) < plain_error("int4", w_ND)
    assert error(w_ND, rounded(Int8Grid, w_ND, even).values()) <= plain_error("int8", w_ND)


@pytest.mark.parametrize("w_ND", [GAUSSIAN, HEAVY], ids=["gaussian", "heavy-tailed"])
def test_four_bits_lose_less_than_q4_0_at_fewer_bits(w_ND: np.ndarray) -> None:
    assert plain_error("int4", w_ND) < q4_0_error(w_ND)
    assert 4.125 + 32 / 1024 < 4.5


def test_four_bits_lose_less_than_q4_0_on_the_demo_model() -> None:
    store = open_model("demo").store
    assert isinstance(store, Checkpoint)
    names = [name for name in store.names if name.endswith("proj.weight") and store.shape(name)[1] % 32 == 0]
    assert len(names) > 10
    for name in names:
        w_ND = store.tensor(name).astype(np.float32)
        assert plain_error("int4", w_ND) < q4_0_error(w_ND), name


def test_important_columns_are_kept_better() -> None:
    importance_D = np.where(np.arange(1024) < 512, np.float32(100), np.float32(1))
    lost_ND = GAUSSIAN - rounded(Int4Grid, GAUSSIAN, importance_D).values()
    even_ND = GAUSSIAN - rounded(Int4Grid, GAUSSIAN, np.ones(1024, np.float32)).values()
    assert np.square(lost_ND[:, :512]).sum() <= np.square(even_ND[:, :512]).sum()


def test_multipliers_are_the_best_of_all_that_are_tried() -> None:
    units_GCN = RANDOM.uniform(-115, 115, (3, 32, 5)).astype(np.float32)
    importance_GC = RANDOM.uniform(0, 1, (3, 32)).astype(np.float32)
    m_GN, error_GN = fit_multipliers(units_GCN, importance_GC)
    for m in [*range(-8, 0), *range(1, 9)]:
        q_GCN = nearest(units_GCN / np.float32(m))
        other_GN = (np.square(units_GCN - q_GCN * m) * importance_GC[..., None]).sum(axis=1)
        tried = np.abs(abs(m) - np.ceil(np.abs(units_GCN).max(axis=1) / REACH)) <= 1
        assert (error_GN[tried] <= other_GN[tried] * 1.0001).all()
    assert ((m_GN >= -8) & (m_GN <= 8) & (m_GN != 0)).all()


@pytest.mark.parametrize("grid_class", [Int4Grid, Int8Grid])
def test_zeros_and_odd_widths_are_fine(grid_class: type[Int4Grid] | type[Int8Grid]) -> None:
    assert not rounded(grid_class, np.zeros((3, 40), np.float32), np.ones(40, np.float32)).values().any()
    w_ND = RANDOM.standard_normal((5, 45)).astype(np.float32)
    assert error(w_ND, rounded(grid_class, w_ND, np.ones(45, np.float32)).values()) < 0.02
