"""Llama 3's rope scaling is found again from its divisors, to the same frequencies bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.weights.make_gguf import divisors
from twofold.errors import UnsupportedModel
from twofold.models.gguf_rope import find_scaling
from twofold.ops.rope import frequencies
from twofold.ops.types import Rope, RopeScaling

CASES = [
    # factor, low, high, original, theta, head size
    (8.0, 1.0, 4.0, 8192, 500000.0, 128),  # Llama 3.1, 3.3
    (32.0, 1.0, 4.0, 8192, 500000.0, 64),  # Llama 3.2
    (16.0, 1.0, 1.0, 8192, 500000.0, 128),  # Llama 4 Scout
    (8.0, 1.0, 4.0, 8192, 500000.0, 12),
    (8.0, 1.0, 4.0, 32, 500000.0, 12),  # no wave in between
    (8.0, 1.0, 4.0, 32, 10000.0, 12),  # one wave in between
    (16.0, 1.0, 1.0, 32, 10000.0, 16),
    (4.0, 1.0, 3.0, 5000, 10000.0, 128),
    (40.0, 1.0, 32.0, 4096, 10000.0, 128),
]


def rope(theta: float, size: int, scaling: RopeScaling | None) -> Rope:
    return Rope(head_size=size, theta=theta, interleaved=False, scaling=scaling)


@pytest.mark.parametrize(("factor", "low", "high", "original", "theta", "size"), CASES)
def test_frequencies_are_the_same_bits(
    factor: float, low: float, high: float, original: int, theta: float, size: int
) -> None:
    config: dict[str, Any] = {
        "head_dim": size, "rope_theta": theta,
        "rope_scaling": {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                         "original_max_position_embeddings": original},
    }  # fmt: skip
    written = divisors(config)
    assert written is not None
    found = find_scaling(written.tolist(), theta)
    exact = RopeScaling(factor=factor, low_freq_factor=low, high_freq_factor=high, original_context=original)
    np.testing.assert_array_equal(frequencies(rope(theta, size, found)), frequencies(rope(theta, size, exact)))


def test_divisors_of_one_are_no_scaling() -> None:
    assert find_scaling([1.0] * 8, 10000.0) is None


@pytest.mark.parametrize(
    ("divisors", "theta"),
    [([1.0, 2.0, 1.0, 8.0], 1e4), ([0.5, 1.0, 1.0, 8.0], 1e4), ([float("nan")] * 4, 1e4), ([float("inf")] * 4, 1e4),
     ([1.0, 3.0, 5.0, 8.0], 1.0), ([1.0, 3.0, 5.0, 8.0], 1e300), ([8.0, 4.0, 2.0, 1.0], 1e4), ([-1.0, 1.0], 1e4),
     ([1.0, 1.1, 1.2, 1.3, 1.4, 7.0, 7.1, 8.0], 1e4)],
)  # fmt: skip
def test_other_scalings_are_refused_and_not_approximated(divisors: list[float], theta: float) -> None:
    with pytest.raises(UnsupportedModel, match="another way than Llama 3"):
        find_scaling(divisors, theta)
