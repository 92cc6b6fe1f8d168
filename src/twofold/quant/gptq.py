"""GPTQ: round a weight column by column, and let the columns that are left make up for each column's error.

What is minimised is |W X - Q X|^2 over calibration inputs X, which only enter as H = X X^T / tokens.
Source: Frantar et al. 2022 (arXiv 2210.17323); columns ordered by importance as in its reference code (actorder).
Groups keep their place in memory: whole groups are ordered by importance, and columns inside their group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.errors import QuantisationError
from twofold.ops.packed import GROUP_COLUMNS, Floats
from twofold.quant.grids import Grid

Doubles = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]

LEAST_DAMPING = 0.01
MOST_DAMPING = 1.0
"""Share of the mean of H's diagonal that is added to it; beyond the most, H carries no information worth using."""


@dataclass(frozen=True)
class Factor:
    """H as GPTQ needs it: upper Cholesky factor of its inverse, in the order of columns; importance_D = diag(H)."""

    upper_DD: Floats
    order_D: Order
    importance_D: Floats
    damping: float


def factorise(h_DD: npt.NDArray[Any], name: str = "weight") -> Factor:
    """Factor a Hessian with the least damping that works.

    Columns that were never used (zero on the diagonal) count like the mean one. Damping grows tenfold until the
    factorisation succeeds; raises QuantisationError when even MOST_DAMPING does not do, or H is not finite.
    """
    h: Doubles = np.array(h_DD, np.float64)
    if not np.isfinite(h).all():
        raise QuantisationError(f"{name}: calibration inputs overflowed; the checkpoint or its inputs are damaged")
    diagonal_D = np.diag(h).copy()
    mean = float(diagonal_D[diagonal_D > 0].mean()) if (diagonal_D > 0).any() else 1.0
    unused = diagonal_D <= 0
    h[unused, :] = h[:, unused] = 0
    h[unused, unused] = diagonal_D[unused] = mean
    order_D = importance_order(diagonal_D)
    ordered_DD = h[order_D][:, order_D]
    damping = LEAST_DAMPING
    while damping <= MOST_DAMPING:
        try:
            damped_DD = ordered_DD + np.eye(len(h)) * (damping * mean)
            upper_DD = np.linalg.cholesky(np.linalg.inv(damped_DD)).T
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        return Factor(upper_DD.astype(np.float32), order_D, diagonal_D.astype(np.float32), damping)
    raise QuantisationError(
        f"{name}: the calibration inputs cannot be factorised even with damping {MOST_DAMPING}. "
        "Use more or other calibration text, or --method round."
    )


def importance_order(diagonal_D: Doubles) -> Order:
    """Groups by their mean importance, the most important first, and the columns of each group in the same way."""
    columns = len(diagonal_D)
    starts = range(0, columns, GROUP_COLUMNS)
    groups = [np.arange(start, min(start + GROUP_COLUMNS, columns)) for start in starts]
    means = np.array([diagonal_D[group].mean() for group in groups])
    ranked = [groups[index] for index in np.argsort(-means, kind="stable")]
    return np.concatenate([group[np.argsort(-diagonal_D[group], kind="stable")] for group in ranked])


def round_with_compensation(w_ND: Floats, factor: Factor, grid: Grid) -> None:
    """Round every column of w_ND to the grid, in the factor's order, passing errors on to the columns that are left."""
    upper_DD, order_D = factor.upper_DD, factor.order_D
    left_DN = np.ascontiguousarray(w_ND.T[order_D])
    start = 0
    while start < len(order_D):
        group = int(order_D[start]) // GROUP_COLUMNS
        size = min(GROUP_COLUMNS, len(order_D) - group * GROUP_COLUMNS)
        stop = start + size
        columns_C, block_CC = order_D[start:stop], upper_DD[start:stop, start:stop]
        block_CN, errors_CN = left_DN[start:stop], np.empty((size, len(w_ND)), np.float32)
        conditional_C: Floats = (1 / np.square(np.diag(block_CC))).astype(np.float32)
        grid.begin(group, block_CN, conditional_C)
        for index in range(size):
            values_N = grid.round(int(columns_C[index]), block_CN[index])
            errors_CN[index] = (block_CN[index] - values_N) / block_CC[index, index]
            block_CN[index + 1 :] -= block_CC[index, index + 1 :, None] * errors_CN[index]
        left_DN[stop:] -= upper_DD[start:stop, stop:].T @ errors_CN
        start = stop


def round_plainly(w_ND: Floats, importance_D: Floats, grid: Grid) -> None:
    """Round every column of w_ND to the grid by itself."""
    for start in range(0, w_ND.shape[1], GROUP_COLUMNS):
        columns_CN = np.ascontiguousarray(w_ND[:, start : start + GROUP_COLUMNS].T)
        grid.begin(start // GROUP_COLUMNS, columns_CN, importance_D[start : start + GROUP_COLUMNS])
        for index, values_N in enumerate(columns_CN):
            grid.round(start + index, values_N)
