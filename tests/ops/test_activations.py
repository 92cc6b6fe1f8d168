"""Activation codes: outliers cost a second row, never precision, and nobody else pays."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.backends.cpu.ops import CpuOps
from twofold.ops.activations import REST_STEPS, WIDE_RATIO, quantize_activations
from twofold.ops.cases import generator, normal, pack
from twofold.ops.packed import Floats, decode


def in_blocks_of_256(x_TD: Floats) -> Floats:
    """What is left of activations with one int8 scale per 256 columns, as llama.cpp keeps them."""
    blocks = x_TD.reshape(len(x_TD), -1, 256)
    scales = np.abs(blocks).max(axis=-1, keepdims=True) / 127
    return (np.rint(blocks / scales) * scales).reshape(x_TD.shape).astype(np.float32)


def planted(kind: str, factor: float, tokens: int, columns: int) -> Floats:
    """Normal activations with a few channels, or a few values of some tokens, that are `factor` times larger."""
    rng = generator(tokens, columns, int(factor))
    x_TD = normal(rng, tokens, columns)
    if kind == "channels":
        x_TD[:, rng.choice(columns, 3, replace=False)] *= factor
    else:
        for token in range(0, tokens, 2):
            x_TD[token, rng.choice(columns, 2, replace=False)] *= factor
    return x_TD


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("columns", [512, 2048, 8192])
@pytest.mark.parametrize("factor", [100, 300, 1000])
@pytest.mark.parametrize("kind", ["channels", "tokens"])
def test_planted_outliers_cost_no_more_than_a_scale_per_256_values(
    kind: str, factor: float, columns: int, form: str
) -> None:
    x_TD = planted(kind, factor, 16, columns)
    ops = CpuOps()
    weight = pack(ops, form, normal(generator(columns), 64, columns))  # type: ignore[arg-type]
    w_ND = decode(weight).astype(np.float64)
    exact_TN = x_TD.astype(np.float64) @ w_ND.T
    lost = np.square(ops.linear(x_TD, weight) - exact_TN).sum(axis=1)
    allowed = np.square(in_blocks_of_256(x_TD).astype(np.float64) @ w_ND.T - exact_TN).sum(axis=1)
    outlying = np.abs(x_TD).max(axis=1) > 25
    assert outlying.sum() >= 6
    assert (lost[outlying] <= allowed[outlying]).all()


def test_ordinary_tokens_are_not_wide() -> None:
    rng = generator(1)
    for x_TD in (normal(rng, 200, 4096), normal(rng, 200, 4096) * normal(rng, 200, 4096)):
        assert not quantize_activations(x_TD).is_wide_T.any()


def test_a_wide_token_keeps_sixteen_bits_and_its_neighbours_change_nothing() -> None:
    x_TD = normal(generator(2), 5, 1024)
    before = quantize_activations(x_TD)
    x_TD[3, 700] = 400
    found = quantize_activations(x_TD)
    assert found.is_wide_T.tolist() == [False, False, False, True, False]
    assert found.firsts_T.tolist() == [0, 1, 2, 3, 5]
    step = np.abs(x_TD[3]).max() / 127 / REST_STEPS
    assert np.abs(found.values()[3] - x_TD[3]).max() <= 0.51 * step
    others = [0, 1, 2, 4]
    assert np.array_equal(found.values()[others], before.values()[others])


def test_outliers_in_every_stretch_are_seen_too() -> None:
    x_TD = normal(generator(3), 20, 256)
    x_TD[:, ::32] *= 256
    assert quantize_activations(x_TD).is_wide_T.all()


def test_blocks_of_zeros_and_rows_of_zeros_are_not_wide() -> None:
    x_TD = np.zeros((2, 600), np.float32)
    x_TD[0, 5] = WIDE_RATIO * 100
    found = quantize_activations(x_TD)
    assert not found.is_wide_T.any()
    assert np.array_equal(found.values(), x_TD)
