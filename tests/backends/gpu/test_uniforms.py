"""Uniform numbers of many rows at once."""

from __future__ import annotations

import numpy as np

from twofold.backends.gpu.uniforms import uniforms
from twofold.ops.types import RowSampling


def test_numbers_are_those_of_numpys_generator() -> None:
    random = np.random.default_rng(4)
    seeds = [0, 1, 2**63, 2**64 - 1, 2**64, 2**127 + 5, *(int(seed) for seed in random.integers(0, 2**62, 20))]
    steps = [0, 2**64 - 1, 2**40, *(int(step) for step in random.integers(0, 5000, 23))]
    rows = [RowSampling(seed=seed, step=step) for seed, step in zip(seeds, steps, strict=True)]
    expected = [np.random.Generator(np.random.Philox(key=row.seed, counter=row.step)).random() for row in rows]
    assert uniforms(rows).tolist() == expected
    assert uniforms([]).tolist() == []
