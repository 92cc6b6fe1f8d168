"""Rotary frequencies and query temperatures against published check values."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.ops.reference import ReferenceOps
from twofold.ops.rope import frequencies
from twofold.ops.types import Rope, RopeScaling, Temperature

SCOUT = RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_context=8192)
LLAMA31 = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)


def rope(scaling: RopeScaling | None) -> Rope:
    return Rope(head_size=128, theta=500000.0, interleaved=True, scaling=scaling)


@pytest.mark.parametrize(
    ("scaling", "pair", "value"),
    [
        (None, 1, 8.14617234e-01),
        (None, 34, 9.38473870e-04),
        (None, 35, 7.64496988e-04),
        (None, 63, 2.45514079e-06),
        (SCOUT, 34, 9.38473870e-04),
        (SCOUT, 35, 4.77810618e-05),
        (SCOUT, 63, 1.53446299e-07),
        (LLAMA31, 29, 2.16657076e-03),
        (LLAMA31, 30, 1.37189357e-03),
        (LLAMA31, 34, 1.78507813e-04),
        (LLAMA31, 35, 9.55621235e-05),
    ],
)
def test_frequencies_are_the_published_ones(scaling: RopeScaling | None, pair: int, value: float) -> None:
    assert frequencies(rope(scaling))[pair] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("position", "factor"),
    [(0, 1.0), (8190, 1.0), (8191, 1.06931472), (16383, 1.10986123), (131071, 1.28332133), (10485759, 1.71553963)],
)
def test_temperatures_are_the_published_ones(position: int, factor: float) -> None:
    q_THK = np.ones((1, 1, 2), np.float32)
    found = ReferenceOps().temperature(q_THK, np.array([position], np.int32), Temperature(floor=8192, scale=0.1))
    assert found[0, 0, 0] == pytest.approx(factor, rel=1e-6)
