"""The numbers that decide what is drawn: Philox of NumPy, whose key is a request's seed and whose counter is the step.

Making a generator for every row and step takes 25 us. One that goes on where it stands gives the numbers of the steps
behind, since each step of the counter yields four words and a step of the answer takes the first of them.
Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

STEPS = 64
"""Numbers that are made at once."""
MOST_SEEDS = 4096
"""Stretches of STEPS that are remembered."""
WORDS = 4
"""Of a step of Philox's counter."""


def uniform(seed: int, step: int) -> float:
    """What Generator(Philox(key=seed, counter=step)).random() gives: in [0, 1), for seed < 2^128 and step < 2^255."""
    return stretch(seed, step // STEPS)[step % STEPS]


@lru_cache(MOST_SEEDS)
def stretch(seed: int, number: int) -> list[float]:
    """The numbers of STEPS steps from STEPS * number on."""
    words = np.random.Philox(key=seed, counter=STEPS * number).random_raw(WORDS * STEPS)[::WORDS]
    numbers: list[float] = ((words >> np.uint64(11)) * 2.0**-53).tolist()
    return numbers
