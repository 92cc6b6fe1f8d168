"""Steps that backends record and play again: whether a batch can be one, and the widths its block tables come in."""

from __future__ import annotations

import numpy as np

from twofold.ops.types import Batch

LEAST_WIDTH = 32
"""Least columns of a widened block table."""


def width_of(columns: int) -> int:
    """The columns a block table is widened to: a power of two, or every few tokens had a new shape."""
    return max(LEAST_WIDTH, 1 << (columns - 1).bit_length())


def wants_all_rows(batch: Batch) -> bool:
    """Whether the logits of every row are wanted, in order: decoded tokens and guesses."""
    return np.array_equal(batch.rows_R, np.arange(len(batch.tokens_T)))
