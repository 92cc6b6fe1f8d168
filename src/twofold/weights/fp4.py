"""Four-bit floats (e2m1): two codes to a byte, the even column in the low nibble, with a scale per group of columns.

    bit 3 is the sign, bits 0 to 2 choose one of 0, 0.5, 1, 1.5, 2, 3, 4, 6

NVFP4 has an e4m3 scale per 16 columns and one float32 for the whole tensor; MXFP4 has a power of two per 32 columns,
kept as its exponent plus 127 (255 means no number; none of a network is near it).
Source: OCP Microscaling Formats (MX) Specification 1.0.
"""

from __future__ import annotations

import numpy as np

from twofold.errors import CheckpointError
from twofold.ops.packed import AnyArray, Floats

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = np.array([*MAGNITUDES, *(-size for size in MAGNITUDES)], np.float32)
NVFP4_GROUP, MXFP4_GROUP = 16, 32
EXPONENT_BIAS, LARGEST_EXPONENT = 127, 100


def unpack_fp4(packed: AnyArray) -> Floats:
    """What packed codes stand for before they are scaled: uint8 [N, D / 2] -> float32 [N, D]."""
    values = np.empty((len(packed), packed.shape[1] * 2), np.float32)
    values[:, 0::2] = VALUES[packed & 15]
    values[:, 1::2] = VALUES[packed >> 4]
    return values


def scale_groups(values_ND: Floats, scales_NG: Floats) -> Floats:
    """Multiply each group of columns with its scale, in place; returns values_ND."""
    rows, groups = scales_NG.shape
    grouped = values_ND.reshape(rows, groups, -1)
    grouped *= scales_NG[:, :, None]
    return values_ND


def powers_of_two(exponents: AnyArray, name: str) -> Floats:
    """The scales of MXFP4 from biased exponents (uint8), float32; CheckpointError for those beyond 2^100."""
    if (exponents > EXPONENT_BIAS + LARGEST_EXPONENT).any():
        raise CheckpointError(
            f"{name} holds an exponent of {exponents.max()}; 255 is no number, and no scale is beyond 2^100. "
            "Download the file again."
        )
    result: Floats = np.ldexp(np.float32(1), exponents.astype(np.int32) - EXPONENT_BIAS).astype(np.float32)
    return result
