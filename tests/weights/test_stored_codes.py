"""twofold's own quantised modules: read back as written, and refused where they are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.damage import Tensors, open_tensors, read_all, with_value, without
from twofold.errors import CheckpointError
from twofold.ops.codes import Codes
from twofold.ops.levels import LEVELS
from twofold.weights.codecs import NATIVE_VERSION
from twofold.weights.stored_codes import tensors_of

CONFIG = {"quant_method": "twofold", "version": NATIVE_VERSION, "scheme": "w4a8"}
RANDOM = np.random.default_rng(2)
N, D = 12, 70


def four_bit(residual: Codes | None = None) -> Codes:
    q_ND, m_NG = RANDOM.choice(LEVELS, (N, D)), RANDOM.integers(1, 9, (N, 3), np.int8)
    return Codes(q_ND, m_NG, RANDOM.uniform(0.1, 1, N).astype(np.float32), residual)


KINDS = {
    "int8": Codes(RANDOM.integers(-127, 128, (N, D), np.int8), None, RANDOM.uniform(0.1, 1, N).astype(np.float32)),
    "int4": four_bit(),
    "refined": four_bit(four_bit()),
}


def tensors(kind: str) -> Tensors:
    return tensors_of("m", KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_come_back_as_they_were_written(kind: str, tmp_path: Path) -> None:
    store = open_tensors(tmp_path, CONFIG, tensors(kind))
    assert store.shape("m.weight") == (N, D)
    assert store.source_format("m.weight") == kind
    for start, stop in ((0, N), (3, 9)):
        found = store.rows("m.weight", start, stop)
        assert isinstance(found, Codes)
        np.testing.assert_array_equal(found.values(), KINDS[kind].slice(start, stop).values())


WRONG: list[tuple[str, str, Any, str]] = [
    ("int8", "weight", None, "missing or no matrix"),
    ("int8", "weight", np.ones((N, D), np.float32), "belongs to this module"),
    ("int8", "weight", np.ones((D,), np.int8), "missing or no matrix"),
    ("int8", "weight_scale", np.ones((N,), np.float32), "belongs to this module"),
    ("int4", "weight_packed", np.ones((N, 34), np.uint8), "belongs to this module"),
    ("int4", "weight_multiplier", None, "is missing"),
    ("int4", "weight_multiplier", np.ones((N, 2), np.int8), "belongs to this module"),
    ("int4", "weight_shape", None, "two whole numbers"),
    ("int4", "weight_shape", np.array([N, D], np.float64), "two whole numbers"),
    ("int4", "weight_shape", np.array([N, -D], np.int64), "belongs to this module"),
    ("int4", "weight_scale", np.ones((N, 2), np.float32), "belongs to this module"),
    ("refined", "residual_scale", None, "is missing"),
    ("refined", "residual_multiplier", np.ones((N, 2), np.int8), "belongs to this module"),
]
VALUES = [
    ("int8", "weight_scale", np.nan, "NaN, infinity or"),
    ("int4", "weight_scale", np.inf, "NaN, infinity or"),
    ("int4", "weight_multiplier", 0, "multipliers outside"),
    ("int4", "weight_multiplier", -9, "multipliers outside"),
    ("refined", "residual_multiplier", 9, "multipliers outside"),
    ("refined", "residual_scale", np.nan, "NaN, infinity or"),
]


@pytest.mark.parametrize(("kind", "part", "changed", "words"), WRONG)
def test_a_tensor_that_does_not_fit_its_module_is_refused(
    kind: str, part: str, changed: Any, words: str, tmp_path: Path
) -> None:
    left = without(tensors(kind), f"m.{part}")
    with pytest.raises(CheckpointError, match=words):
        open_tensors(tmp_path, CONFIG, left if changed is None else {**left, f"m.{part}": changed})


@pytest.mark.parametrize(("kind", "part", "value", "words"), VALUES)
def test_a_number_that_makes_no_sense_is_refused(
    kind: str, part: str, value: float, words: str, tmp_path: Path
) -> None:
    store = open_tensors(tmp_path, CONFIG, with_value(tensors(kind), f"m.{part}", value))
    with pytest.raises(CheckpointError, match=words):
        read_all(store)
