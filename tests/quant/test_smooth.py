"""Smoothing scales are powers of two between what is made and what reads it."""

from __future__ import annotations

import numpy as np

from twofold.ops.packed import Dense
from twofold.ops.reference import ReferenceOps
from twofold.quant.smooth import Extremes, smoothing

RANDOM = np.random.default_rng(4)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_scales_follow_the_formula_to_the_nearest_power_of_two() -> None:
    largest_x, largest_w = np.exp(3 * normal(64)), np.exp(normal(64))
    scales = smoothing(largest_x, largest_w)
    exact = np.sqrt(largest_x / largest_w)
    exact /= np.exp(np.log(exact).mean())
    assert (np.log2(scales) == np.rint(np.log2(scales))).all()
    assert np.abs(np.log2(scales / exact)).max() <= 0.5 + 1e-5
    spread_before, spread_after = (np.ptp(np.log2(part)) for part in (largest_x, largest_x / scales))
    assert spread_after < 0.7 * spread_before


def test_channels_that_are_always_zero_stay_as_they_are() -> None:
    scales = smoothing(np.array([0, 4, 1], np.float32), np.array([1, 1, 0], np.float32))
    assert scales.tolist() == [1, 1, 1]


def test_extremes_are_those_of_every_call_and_of_every_expert_by_itself() -> None:
    weight, gate_up, down = Dense(normal(8, 16)), Dense(normal(3, 12, 16)), Dense(normal(3, 16, 6))
    ops = Extremes(ReferenceOps(), {"w": weight, "gate_up": gate_up, "down": down})
    x_TD = normal(30, 16)
    experts_TA = np.tile(np.array([[0, 2]]), (30, 1))  # expert 1 is never chosen
    gates_TA = np.full((30, 2), 0.5, np.float32)
    for part in (slice(0, 10), slice(10, 30)):
        ops.linear(x_TD[part], weight)
        ops.experts(x_TD[part], experts_TA[part], gates_TA[part], gate_up, down)
    np.testing.assert_array_equal(ops.of["w"], np.abs(x_TD).max(axis=0))
    hidden_TN = 0.5 * x_TD @ gate_up.values[2].T
    gate, up = hidden_TN[:, :6], hidden_TN[:, 6:]
    np.testing.assert_allclose(ops.of["down.2"], np.abs(gate / (1 + np.exp(-gate)) * up).max(axis=0), rtol=1e-4)
    assert set(ops.of) == {"w", "down.0", "down.2"}
