"""Forms of weights: nearest four-bit codes, and what cannot be held."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.errors import QuantisationError
from twofold.export.forms import forms
from twofold.export.graph import Graph
from twofold.export.weights import (
    GraphWeight,
    Weights,
    half,
    int4_codes,
    is_symmetric,
    nearest_int4,
    pack_int4,
    values_of,
)
from twofold.ops.packed import Dense, Group4, place, size_bytes
from twofold.ops.types import Target


def test_four_bit_codes_lose_no_more_than_half_a_step_and_extremes_fit() -> None:
    w_ND = np.random.default_rng(0).standard_normal((40, 70)).astype(np.float32)
    q_ND, scales_NG = nearest_int4(w_ND)
    values = q_ND * np.repeat(scales_NG, 32, axis=1)[:, :70]
    assert q_ND.min() >= -8
    assert q_ND.max() <= 7
    assert np.square(values - w_ND).sum() / np.square(w_ND).sum() < 0.008
    assert nearest_int4(np.zeros((2, 32), np.float32))[0].any() == 0


def test_symmetric_four_bit_codes_of_a_checkpoint_are_kept_as_they_are() -> None:
    from twofold.ops.codes import GroupCodes, store

    random = np.random.default_rng(1)
    q_ND = random.integers(0, 16, (32, 64)).astype(np.uint8)
    scales_NG = random.uniform(0.01, 0.1, (32, 2)).astype(np.float16).astype(np.float32)
    weight = place("group4", (32, 64), np.zeros(size_bytes("group4", (32, 64)), np.uint8))
    store(GroupCodes(q_ND, scales_NG, np.full((32, 2), 8, np.float32)), weight, 0)
    found, scales = int4_codes(weight, "w")
    assert np.array_equal(found, q_ND.astype(np.int8) - 8)
    assert np.array_equal(scales, scales_NG)


def test_codes_with_zero_points_are_rounded_again_and_that_is_kept_track_of() -> None:
    from twofold.ops.codes import GroupCodes, store

    random = np.random.default_rng(2)
    weight = place("group4", (32, 64), np.zeros(size_bytes("group4", (32, 64)), np.uint8))
    scales_NG = random.uniform(0.01, 0.1, (32, 2)).astype(np.float16).astype(np.float32)
    store(
        GroupCodes(random.integers(0, 16, (32, 64)).astype(np.uint8), scales_NG, np.full((32, 2), 7, np.float32)),
        weight,
        0,
    )
    target = Target(name="layers.0.qkv", role="attention", shape=(32, 64), sources=())
    weights = Weights(Graph(None), lambda *_: weight, ("layers.0.qkv",))  # type: ignore[arg-type]
    assert weights.matrix(GraphWeight(target, "int4")) is weight
    assert weights.rounded == {"layers.0.qkv"}
    assert isinstance(weight, Group4)
    assert not is_symmetric(weight)


def test_two_codes_share_a_byte_the_first_in_its_low_half() -> None:
    assert pack_int4(np.array([1, -2, 7], np.int8)).tolist() == [0xE1, 0x07]


def test_what_a_form_cannot_hold_is_said() -> None:
    with pytest.raises(QuantisationError, match="more than float16 holds"):
        half(np.array([70000], np.float32), "layers.0.qkv")
    with pytest.raises(QuantisationError, match="not finite"):
        values_of(Dense(np.array([[np.nan]], np.float32)), "layers.0.qkv")


def test_norms_and_router_stay_exact_and_the_ends_get_more_bits() -> None:
    chosen = forms("int4")
    assert (chosen["norm"], chosen["router"], chosen["head"], chosen["expert"]) == ("f32", "f32", "int8", "int4")
