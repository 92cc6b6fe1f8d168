"""Unpacking of codes that share 32-bit words."""

from __future__ import annotations

import numpy as np

from twofold.ops.packed import AnyArray


def unpack_words(words: AnyArray, bits: int) -> AnyArray:
    """Unsigned codes of `bits` bits (2, 4 or 8) from int32 words along the last axis, the lowest bits first: uint8."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    wide = np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts
    result: AnyArray = (wide & np.uint32(2**bits - 1)).astype(np.uint8)
    return result.reshape(*words.shape[:-1], -1)
