"""Rotary frequencies, shared by all backends."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from twofold.ops.types import Rope, RopeScaling

Floats = npt.NDArray[np.float32]


@lru_cache(maxsize=16)
def frequencies(rope: Rope) -> Floats:
    """Angular frequency of each pair, float32 [K / 2]: theta^(-2i/K), then Llama 3 scaling where configured."""
    exponents = np.arange(0, rope.head_size, 2, dtype=np.float32) / np.float32(rope.head_size)
    plain = 1.0 / np.power(np.float32(rope.theta), exponents, dtype=np.float32)
    result = plain if rope.scaling is None else scaled(plain, rope.scaling)
    result = result.astype(np.float32)
    result.setflags(write=False)
    return result


def scaled(frequencies_K2: Floats, scaling: RopeScaling) -> Floats:
    """Llama 3's scaling: waves longer than original / low are stretched, shorter than original / high kept.

    With low == high (Scout) the band between is empty and never computed.
    Source: llama-models, models/llama3/model.py, apply_scaling.
    """
    wave_lengths = 2 * np.pi / frequencies_K2
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    stretched = frequencies_K2 / scaling.factor
    result = np.where(wave_lengths > scaling.original_context / low, stretched, frequencies_K2)
    between = (wave_lengths >= scaling.original_context / high) & (wave_lengths <= scaling.original_context / low)
    if high > low:
        weight = (scaling.original_context / wave_lengths - low) / (high - low)
        blended = (1 - weight) * stretched + weight * frequencies_K2
        result = np.where(between, blended, result)
    return result.astype(np.float32)


def cosine_sine(positions_T: npt.NDArray[np.int32], rope: Rope) -> tuple[Floats, Floats]:
    """cos and sin of position * frequency, each float32 [T, K / 2]; the product is taken in float32 as oracles do."""
    angles_TK2 = positions_T.astype(np.float32)[:, None] * frequencies(rope)[None, :]
    return np.cos(angles_TK2), np.sin(angles_TK2)
