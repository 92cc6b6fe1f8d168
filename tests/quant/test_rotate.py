"""Rotations are orthogonal, whatever the size, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.errors import QuantisationError
from twofold.ops.packed import Dense
from twofold.ops.types import Source, Target
from twofold.quant.rotate import hadamard, make_rotation, make_rotations, rotate_unit
from twofold.quant.units import Unit


@pytest.mark.parametrize("size", [1, 2, 12, 15, 60, 64, 80, 256, 320])
def test_a_rotation_of_any_size_is_orthogonal(size: int) -> None:
    rotation = make_rotation(size, np.random.default_rng(0))
    q_DD = rotation.turn(np.eye(size)).astype(np.float64)
    np.testing.assert_allclose(q_DD @ q_DD.T, np.eye(size), atol=1e-6)


def test_a_hadamard_matrix_has_entries_of_one_size() -> None:
    np.testing.assert_allclose(np.abs(hadamard(16)), 0.25, rtol=1e-12)


def test_an_outlier_is_spread_over_all_channels() -> None:
    x_ND = np.zeros((1, 5120), np.float32)
    x_ND[0, 77] = 1000
    turned_ND = make_rotation(5120, np.random.default_rng(0)).turn(x_ND)
    assert np.abs(turned_ND).max() < 1000 * 0.04  # 1 / sqrt(1024) times the largest entry of an orthogonal 5 x 5
    assert np.square(turned_ND).sum() == pytest.approx(1e6, rel=1e-6)


def test_rows_turn_alike_in_slices_and_gains_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x_ND = np.random.default_rng(1).standard_normal((50, 24)).astype(np.float32)
    gains_D = np.linspace(0.5, 2, 24, dtype=np.float32)
    rotation = make_rotation(24, np.random.default_rng(2))
    whole = rotation.turn(x_ND, gains_D)
    np.testing.assert_allclose(whole, (x_ND * gains_D) @ rotation.turn(np.eye(24)), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("twofold.quant.rotate.SLICE_VALUES", 100)
    np.testing.assert_allclose(rotation.turn(x_ND, gains_D), whole, rtol=1e-6, atol=1e-6)


def test_the_rotations_of_a_network_are_always_the_same() -> None:
    one, other = make_rotations(60, 12, 2), make_rotations(60, 12, 2)
    np.testing.assert_array_equal(one.stream.turn(np.eye(60)), other.stream.turn(np.eye(60)))
    np.testing.assert_array_equal(one.values.turn(np.eye(12)), other.values.turn(np.eye(12)))


def test_a_weight_in_an_unknown_place_is_refused() -> None:
    target = Target(name="layers.0.query_gain", role="norm", shape=(8,), sources=((Source(name="x", shape=(8,)),),))
    with pytest.raises(QuantisationError, match=r"layers\.0\.query_gain is a weight rotation does not know"):
        rotate_unit(Unit("layer 0", 0, (target,)), {target.name: Dense(np.ones(8))}, make_rotations(8, 4, 1))
