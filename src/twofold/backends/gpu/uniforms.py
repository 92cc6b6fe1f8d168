"""The numbers that decide what is drawn, of many rows at once.

NumPy's Philox is a function of a key (the seed) and a counter (the step): ten rounds of multiplications, no state.
Making a generator for each of 256 rows took 4 ms; the same rounds on arrays take a twentieth of that.
Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011); tested against NumPy's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from twofold.ops.types import RowSampling

Words = npt.NDArray[np.uint64]
MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
KEY_STEPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
ROUNDS = 10
WORD = 2**64
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def uniforms(rows: Sequence[RowSampling]) -> npt.NDArray[np.float64]:
    """What Generator(Philox(key=seed, counter=step)).random() gives for every row, float64 [R]."""
    keys = [np.array([row.seed >> shift & WORD - 1 for row in rows], np.uint64) for shift in (0, 64)]
    counters = [np.array([row.step + 1 >> shift & WORD - 1 for row in rows], np.uint64) for shift in (0, 64, 128, 192)]
    with np.errstate(over="ignore"):
        for _ in range(ROUNDS):
            high_0, low_0 = product(counters[0], MULTIPLIERS[0])
            high_1, low_1 = product(counters[2], MULTIPLIERS[1])
            counters = [high_1 ^ counters[1] ^ keys[0], low_1, high_0 ^ counters[3] ^ keys[1], low_0]
            keys = [key + step for key, step in zip(keys, KEY_STEPS, strict=True)]
    result: npt.NDArray[np.float64] = (counters[0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


def product(x: Words, factor: np.uint64) -> tuple[Words, Words]:
    """The upper and the lower word of x * factor."""
    x_high, x_low, high, low = x >> HALF, x & LOW, factor >> HALF, factor & LOW
    first, second = x_high * low, x_low * high
    middle = (x_low * low >> HALF) + (first & LOW) + (second & LOW)
    return x_high * high + (first >> HALF) + (second >> HALF) + (middle >> HALF), x * factor
