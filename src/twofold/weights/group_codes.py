"""Four-bit codes with a float scale per group of columns, as GPTQ, AWQ and others store them, in the form of Group4."""

from __future__ import annotations

import numpy as np

from twofold.ops.codes import GroupCodes
from twofold.ops.packed import GROUP_COLUMNS, AnyArray, Floats

MIDDLE = 8
LARGEST_HALF = 65504


def has_whole_groups(groups_D: AnyArray) -> bool:
    """Whether each 32 columns, in their order, share a group; groups_D is the group of each column."""
    return bool((groups_D == np.repeat(groups_D[::GROUP_COLUMNS], GROUP_COLUMNS)[: len(groups_D)]).all())


def fit_halves(scales: AnyArray) -> bool:
    """Whether float16 holds these scales exactly."""
    if scales.dtype == np.float16:
        return True
    wide = scales.astype(np.float32)
    return bool((np.abs(wide) <= LARGEST_HALF).all()) and np.array_equal(wide.astype(np.float16), wide)


def group_codes(q_ND: AnyArray, s_NG: Floats, z_NG: Floats, groups_D: AnyArray) -> GroupCodes:
    """Codes 0..15 that stand for s * (q - z), exactly; column d uses scale and zero point groups_D[d].

    The scales must fit_halves; zero points are whole numbers, up to 16.
    """
    homes_G = groups_D[::GROUP_COLUMNS]
    return GroupCodes(
        np.ascontiguousarray(q_ND, np.uint8),
        np.ascontiguousarray(s_NG[:, homes_G], np.float32),
        np.ascontiguousarray(z_NG[:, homes_G], np.float32),
    )
