"""Llama 3's rope scaling, found again from what a GGUF file keeps of it: one divisor of the frequency per pair.

A divisor is 1 for short waves, `factor` for long ones and in between 1 / ((1 - s) / factor + s) with
s = (original / wave - low) / (high - low). Only the ratios of original, low and high can be told; low is taken as 1,
as every published Llama has it.
Source: llama.cpp, conversion/llama.py; llama-models, models/llama3/model.py, apply_scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from twofold.errors import UnsupportedModel
from twofold.ops.types import RopeScaling

PUBLISHED = ((8.0, 4.0, 8192), (32.0, 4.0, 8192), (16.0, 1.0, 8192))
"""Factor, high and original context of Llama 3.1 and 3.3, Llama 3.2, Llama 4 Scout."""
HIGHS = (4.0, 2.0, 8.0, 16.0, 3.0, 1.5)
"""Tried where one wave lies in between, which tells `high` and the original context only together."""
LARGEST_BASE, LARGEST_CONTEXT = 1e12, 2**40
TOLERANCE = 1e-5
"""Relative; divisors were computed in float32."""


def find_scaling(divisors: Sequence[float], theta: float) -> RopeScaling | None:
    """The scaling that gives these divisors for frequencies of base `theta`, None where all are 1.

    Raises UnsupportedModel when Llama 3's formula does not give them.
    """
    if all(divisor == 1.0 for divisor in divisors):
        return None
    if all(1.0 <= divisor < math.inf for divisor in divisors) and 1.0 < theta < LARGEST_BASE:
        waves = [2 * math.pi * theta ** (index / len(divisors)) for index in range(len(divisors))]
        for scaling in candidates(divisors, waves):
            if all(
                math.isclose(divisor_of(wave, scaling), divisor, rel_tol=TOLERANCE)
                for wave, divisor in zip(waves, divisors, strict=True)
            ):
                return scaling
    raise UnsupportedModel(
        "tensor rope_freqs.weight scales the rotary frequencies in another way than Llama 3 does, which cannot be run. "
        "Use the safetensors release of this model."
    )


def divisor_of(wave: float, scaling: RopeScaling) -> float:
    """What the frequency of this wave length is divided by."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if wave < scaling.original_context / high:
        return 1.0
    if wave > scaling.original_context / low or high == low:
        return scaling.factor
    kept = (scaling.original_context / wave - low) / (high - low)
    return 1 / ((1 - kept) / scaling.factor + kept)


def candidates(divisors: Sequence[float], waves: Sequence[float]) -> Iterator[RopeScaling]:
    """Scalings that may be meant: the published ones, then those that fit the waves in between."""
    for factor, high, original in PUBLISHED:
        yield build(factor, high, original)
    factor = max(divisors)
    points = [
        (1 / wave, (1 / divisor - 1 / factor) / (1 - 1 / factor))
        for wave, divisor in zip(waves, divisors, strict=True)
        if 1 + TOLERANCE < divisor < factor * (1 - TOLERANCE)
    ]
    if len(points) > 1:
        (x0, kept0), (x1, kept1) = points[0], points[-1]
        slope = (kept0 - kept1) / (x0 - x1) if x0 > x1 else 0.0
        offset = slope * x0 - kept0
        if slope > 0 and offset > 0:
            yield build(factor, round(1 + 1 / offset, 3), slope / offset)
    elif points:
        x, kept = points[0]
        for high in HIGHS:
            yield build(factor, high, (kept * (high - 1) + 1) / x)
    else:
        yield build(factor, 1.0, border(divisors, waves))


def border(divisors: Sequence[float], waves: Sequence[float]) -> float:
    """A whole number between the longest wave that is kept and the shortest that is stretched, round if possible."""
    kept = max((wave for wave, divisor in zip(waves, divisors, strict=True) if divisor == 1.0), default=0.5)
    stretched = min(wave for wave, divisor in zip(waves, divisors, strict=True) if divisor != 1.0)
    power = 2.0 ** math.floor(math.log2(stretched))
    return power if power > kept else math.sqrt(kept * stretched)


def build(factor: float, high: float, original: float) -> RopeScaling:
    """A scaling with low frequency factor 1 and a whole original context."""
    return RopeScaling(
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=high,
        original_context=max(1, round(min(original, LARGEST_CONTEXT))),
    )
