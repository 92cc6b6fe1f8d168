"""The grids weights are rounded to: for each format, its scales by search and its nearest codes.

A grid is made for the rows of one weight, with the importance of each input column (the mean square of what the
column is multiplied by): errors of important columns count more when scales are chosen.
"""

from __future__ import annotations

import itertools
from typing import Protocol, TypeAlias

import numpy as np

from twofold.errors import QuantisationError
from twofold.ops.codes import Bytes, Codes
from twofold.ops.levels import REACH, nearest
from twofold.ops.packed import BF16, FP8, GROUP_COLUMNS, Floats
from twofold.weights.compressed_rows import Fp8Rows, GroupRows

Rows: TypeAlias = Codes | Fp8Rows | GroupRows
"""Quantised rows, whatever format they are in."""

INT4_SCALES = tuple(np.linspace(0.7, 1.1, 6, dtype=np.float32))
"""Scales tried, relative to the one that sends a row's largest weight to 120."""
INT8_SCALES = tuple(np.linspace(0.8, 1.0, 9, dtype=np.float32))
"""Scales tried, relative to the one that sends a row's largest weight to 127."""
MULTIPLIER_STEPS = (-1, 0, 1)
"""Sizes of a multiplier that are tried, counted from the one that just covers a group."""
SLICE_ROWS = 512
"""Rows whose scales are searched at a time: candidates take several copies."""


class Grid(Protocol):
    """Rounds a weight column by column; groups of GROUP_COLUMNS columns are begun before their columns are rounded."""

    def begin(self, group: int, columns_CN: Floats, importance_C: Floats) -> None:
        """Look at a whole group of columns (as they are now) before any of them is rounded."""
        ...

    def round(self, column: int, values_N: Floats) -> Floats:
        """Take the nearest codes of a column, keep them, and return what they stand for."""
        ...

    def codes(self) -> Rows:
        """All codes, once every column is rounded."""
        ...


class Int8Grid:
    """Eight-bit codes, one scale per row."""

    def __init__(self, w_ND: Floats, importance_D: Floats) -> None:
        self.scales_N = choose_scales(w_ND, importance_D, np.float32(127), INT8_SCALES, int8_error)
        self.inverse_N = inverse(self.scales_N)
        self.q_DN = np.zeros(w_ND.shape[::-1], np.int8)

    def begin(self, group: int, columns_CN: Floats, importance_C: Floats) -> None:
        """Nothing depends on the group."""

    def round(self, column: int, values_N: Floats) -> Floats:
        """See Grid."""
        q_N = np.clip(np.rint(values_N * self.inverse_N), -127, 127)
        self.q_DN[column] = q_N.astype(np.int8)
        result: Floats = q_N * self.scales_N
        return result

    def codes(self) -> Codes:
        """See Grid."""
        return Codes(np.ascontiguousarray(self.q_DN.T), None, self.scales_N)


class Int4Grid:
    """Four-bit codes, a multiplier per group, one scale per row. Multipliers are chosen when their group begins."""

    def __init__(self, w_ND: Floats, importance_D: Floats) -> None:
        rows, columns = w_ND.shape
        self.scales_N = choose_scales(w_ND, importance_D, np.float32(8 * REACH), INT4_SCALES, int4_error)
        self.inverse_N = inverse(self.scales_N)
        self.q_DN = np.zeros((columns, rows), np.int8)
        self.m_GN = np.ones((-(-columns // GROUP_COLUMNS), rows), np.int8)

    def begin(self, group: int, columns_CN: Floats, importance_C: Floats) -> None:
        """Choose the group's multipliers."""
        m_1N, _ = fit_multipliers((columns_CN * self.inverse_N)[None], importance_C[None])
        self.m_GN[group] = m_1N[0]

    def round(self, column: int, values_N: Floats) -> Floats:
        """See Grid."""
        m_N = self.m_GN[column // GROUP_COLUMNS].astype(np.float32)
        q_N = nearest(values_N * self.inverse_N / m_N)
        self.q_DN[column] = q_N.astype(np.int8)
        result: Floats = q_N * m_N * self.scales_N
        return result

    def codes(self) -> Codes:
        """See Grid."""
        return Codes(np.ascontiguousarray(self.q_DN.T), np.ascontiguousarray(self.m_GN.T), self.scales_N)


class Fp8Grid:
    """float8 e4m3 values, one scale per row; 448 is the largest value."""

    def __init__(self, w_ND: Floats, importance_D: Floats) -> None:
        del importance_D  # a scale that clips loses more than a finer grid wins: the values are floating-point
        self.scales_N = (np.abs(w_ND).max(axis=-1) / np.float32(448)).astype(np.float32)
        self.inverse_N = inverse(self.scales_N)
        self.q_DN = np.zeros(w_ND.shape[::-1], FP8)

    def begin(self, group: int, columns_CN: Floats, importance_C: Floats) -> None:
        """Nothing depends on the group."""

    def round(self, column: int, values_N: Floats) -> Floats:
        """See Grid."""
        self.q_DN[column] = np.clip(values_N * self.inverse_N, -448, 448).astype(FP8)
        result: Floats = self.q_DN[column].astype(np.float32) * self.scales_N
        return result

    def codes(self) -> Fp8Rows:
        """See Grid."""
        return Fp8Rows(np.ascontiguousarray(self.q_DN.T), self.scales_N)


class GroupGrid:
    """Four-bit codes with a bfloat16 scale per group of columns; scales are chosen before anything is rounded."""

    def __init__(self, w_ND: Floats, importance_D: Floats) -> None:
        rows, columns = w_ND.shape
        self.size = group_size(columns)
        scales = [
            choose_scales(
                np.ascontiguousarray(w_ND[:, start : start + self.size]),
                importance_D[start : start + self.size],
                np.float32(8),
                INT8_SCALES,
                four_bit_error,
            )
            for start in range(0, columns, self.size)
        ]
        self.scales_GN = np.stack(scales).astype(BF16).astype(np.float32)
        self.q_DN = np.zeros((columns, rows), np.int8)

    def begin(self, group: int, columns_CN: Floats, importance_C: Floats) -> None:
        """Nothing is left to choose."""

    def round(self, column: int, values_N: Floats) -> Floats:
        """See Grid."""
        scales_N = self.scales_GN[column // self.size]
        q_N = np.clip(np.rint(values_N * inverse(scales_N)), -8, 7)
        self.q_DN[column] = q_N.astype(np.int8)
        result: Floats = q_N * scales_N
        return result

    def codes(self) -> GroupRows:
        """See Grid."""
        return GroupRows(np.ascontiguousarray(self.q_DN.T), np.ascontiguousarray(self.scales_GN.T))


def group_size(columns: int) -> int:
    """Columns that share a scale in w4a16: 128, or 32 where that does not divide; else QuantisationError."""
    for size in (128, 32):
        if columns % size == 0:
            return size
    raise QuantisationError(
        f"w4a16 gives every 128 or 32 columns a scale; a weight with {columns} columns cannot be cut like that. "
        "Choose another scheme."
    )


def four_bit_error(units_ND: Floats, importance_D: Floats) -> Floats:
    """Error of nearest codes in -8..7."""
    result: Floats = np.square(units_ND - np.clip(np.rint(units_ND), -8, 7)) @ importance_D
    return result


def inverse(scales_N: Floats) -> Floats:
    """1 / s, and 0 for rows of zeros."""
    return np.divide(np.float32(1), scales_N, out=np.zeros_like(scales_N), where=scales_N > 0)


def choose_scales(
    w_ND: Floats, importance_D: Floats, reach: np.float32, factors: tuple[np.float32, ...], error: ErrorOf
) -> Floats:
    """The scale of each row with the least weighted squared error; the first factor on ties."""
    result = np.zeros(len(w_ND), np.float32)
    for start in range(0, len(w_ND), SLICE_ROWS):
        rows_ND = w_ND[start : start + SLICE_ROWS]
        widest_N = np.abs(rows_ND).max(axis=-1) / reach
        best_N = np.full(len(rows_ND), np.inf, np.float32)
        for factor in factors:
            scales_N = (widest_N * factor).astype(np.float32)
            error_N = error(rows_ND * inverse(scales_N)[:, None], importance_D) * scales_N**2
            better_N = error_N < best_N
            best_N = np.where(better_N, error_N, best_N)
            result[start : start + SLICE_ROWS][better_N] = scales_N[better_N]
    return result


class ErrorOf(Protocol):
    """Weighted squared error of each row when units of the scale are rounded."""

    def __call__(self, units_ND: Floats, importance_D: Floats) -> Floats:
        """units_ND: weights over their scale."""
        ...


def int8_error(units_ND: Floats, importance_D: Floats) -> Floats:
    """Error of nearest codes in -127..127."""
    result: Floats = np.square(units_ND - np.clip(np.rint(units_ND), -127, 127)) @ importance_D
    return result


def int4_error(units_ND: Floats, importance_D: Floats) -> Floats:
    """Error of nearest codes with the best multiplier of each group."""
    rows, columns = units_ND.shape
    groups = -(-columns // GROUP_COLUMNS)
    padded_GCN = np.zeros((groups * GROUP_COLUMNS, rows), np.float32)
    padded_GCN[:columns] = units_ND.T
    weights_GC = np.zeros(groups * GROUP_COLUMNS, np.float32)
    weights_GC[:columns] = importance_D
    shape = (groups, GROUP_COLUMNS)
    _, error_GN = fit_multipliers(padded_GCN.reshape(*shape, rows), weights_GC.reshape(shape))
    result: Floats = error_GN.sum(axis=0)
    return result


def fit_multipliers(units_GCN: Floats, importance_GC: Floats) -> tuple[Bytes, Floats]:
    """The multiplier of each group and row with the least weighted squared error, and that error.

    Both signs are tried: levels reach to -15 on one side and 13 on the other, and lie otherwise between.
    """
    most_GN = np.abs(units_GCN).max(axis=1)
    covering_GN = np.ceil(most_GN * np.float32(1 / REACH))
    weights_GC1 = importance_GC[..., None]
    best_GN = np.full(most_GN.shape, np.inf, np.float32)
    chosen_GN = np.ones(most_GN.shape, np.float32)
    for step, sign in itertools.product(MULTIPLIER_STEPS, (1, -1)):
        m_GN = np.clip(covering_GN + np.float32(step), 1, 8) * np.float32(sign)
        scaled_GCN = units_GCN / m_GN[:, None]
        error_GN = (np.square(scaled_GCN - nearest(scaled_GCN)) * weights_GC1).sum(axis=1) * m_GN**2
        better_GN = error_GN < best_GN
        best_GN = np.where(better_GN, error_GN, best_GN)
        chosen_GN = np.where(better_GN, m_GN, chosen_GN)
    return chosen_GN.astype(np.int8), best_GN
