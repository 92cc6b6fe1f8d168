"""The levels of four-bit codes: nearest means nearest, and codes name them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twofold.ops.levels import LEVELS, REACH, ZERO_CODE, codes_of, nearest


def test_sixteen_levels_times_eight_fit_an_int8() -> None:
    assert len(set(LEVELS.tolist())) == 16
    assert sorted(LEVELS.tolist()) == LEVELS.tolist()
    assert np.abs(LEVELS.astype(int)).max() * 8 == REACH * 8 <= 127
    assert LEVELS[ZERO_CODE] == 0


@given(st.floats(-40, 40, width=32))
def test_no_level_is_nearer(value: float) -> None:
    found = float(nearest(np.array([value], np.float32))[0])
    assert found in LEVELS
    assert abs(found - value) <= np.abs(LEVELS.astype(np.float64) - value).min() + 1e-6


def test_a_level_is_nearest_to_itself_and_has_its_code() -> None:
    assert np.array_equal(nearest(LEVELS.astype(np.float32)), LEVELS)
    assert np.array_equal(codes_of(LEVELS), np.arange(16))
    assert codes_of(np.array([3], np.int8)).tolist() == [255]
