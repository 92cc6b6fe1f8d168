"""Uniform numbers by seed and step."""

from __future__ import annotations

import numpy as np

from twofold.ops.uniforms import STEPS, uniform


def test_numbers_are_those_of_numpys_generator() -> None:
    random = np.random.default_rng(4)
    seeds = [0, 1, 2**63, 2**64 - 1, 2**64, 2**127 + 5, *(int(seed) for seed in random.integers(0, 2**62, 20))]
    steps = [0, 1, STEPS - 1, STEPS, 2**64 - 1, 2**40, *(int(step) for step in random.integers(0, 5000, 20))]
    for seed, step in zip(seeds, steps, strict=True):
        assert uniform(seed, step) == np.random.Generator(np.random.Philox(key=seed, counter=step)).random()
    for step in range(3 * STEPS):
        assert uniform(5, step) == np.random.Generator(np.random.Philox(key=5, counter=step)).random()
