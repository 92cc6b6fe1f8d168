"""Making packed weights (ops.layout) the plain way, and reading them back: the specification of every packer."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import numpy.typing as npt

from twofold.ops.layout import (
    BF16,
    COLUMN_STEP,
    DENSE_DTYPES,
    GROUP_COLUMNS,
    PANEL_ROWS,
    REFINED_LEAST,
    REFINED_SHARE,
    AnyArray,
    Dense,
    Floats,
    Format,
    Fp8,
    Group4,
    Int4,
    Int8,
    MappingPacker,
    Packed,
    Packer,
    Refined,
    fields,
    matrix,
    padded,
    place,
    refined_panels,
    size_bytes,
)
from twofold.ops.levels import LEVELS, REACH, codes_of, nearest

__all__ = [
    "BF16",
    "COLUMN_STEP",
    "DENSE_DTYPES",
    "FP8",
    "GROUP_COLUMNS",
    "PANEL_ROWS",
    "REFINED_LEAST",
    "REFINED_SHARE",
    "AnyArray",
    "Dense",
    "Floats",
    "Format",
    "Fp8",
    "Group4",
    "Int4",
    "Int8",
    "MappingPacker",
    "Packed",
    "Packer",
    "Refined",
    "decode",
    "encode",
    "fields",
    "integer_rows",
    "matrix",
    "pack_groups",
    "pack_nibbles",
    "padded",
    "place",
    "quantize_int4",
    "quantize_int8",
    "refined_panels",
    "size_bytes",
    "squared_error",
]

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
FP8_LARGEST = 448

# Making packed weights -------------------------------------------------------------------------------------------


def quantize_int8(rows_ND: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Nearest codes and one scale per row: s = max|w| / 127, q = rint(w * (1 / s)), all in float32."""
    scales_N = np.abs(rows_ND).max(axis=-1) / np.float32(127.0)
    inverse_N = np.divide(np.float32(1.0), scales_N, out=np.zeros_like(scales_N), where=scales_N > 0)
    codes_ND = np.clip(np.rint(rows_ND * inverse_N[:, None]), -127, 127).astype(np.int8)
    return codes_ND, scales_N


def quantize_int4(rows_ND: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], Floats]:
    """Two-level codes by plain rounding: q_ND as levels, m_NG, s_N. D is a multiple of 32.

    s = max|w| / 120, so that the widest group of a row takes |m| = 8. Of six multipliers the one with the least
    squared error wins, the first on ties: the sign that sends the group's extreme value to -15, where the levels
    reach furthest, then the other; of each the size that just covers the extreme, after one less and before one more.
    """
    count = rows_ND.shape[0]
    groups_NGC = rows_ND.reshape(count, -1, GROUP_COLUMNS)
    scales_N = np.abs(rows_ND).max(axis=-1) / np.float32(8 * REACH)
    inverse_N = np.divide(np.float32(1.0), scales_N, out=np.zeros_like(scales_N), where=scales_N > 0)
    units_NGC = groups_NGC * inverse_N[:, None, None]  # in units of s: at most 120
    extremes_NG = np.take_along_axis(units_NGC, np.abs(units_NGC).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    signs_NG = np.where(extremes_NG > 0, np.float32(-1), np.float32(1))
    covering_NG = np.ceil(np.abs(extremes_NG) * np.float32(1 / REACH))
    best_error_NG = np.full(extremes_NG.shape, np.inf, np.float32)
    best_m_NG = np.ones(extremes_NG.shape, np.float32)
    best_q_NGC = np.zeros(units_NGC.shape, np.float32)
    for sign, step in itertools.product((1.0, -1.0), (-1.0, 0.0, 1.0)):
        m_NG = np.clip(covering_NG + np.float32(step), 1, 8) * (signs_NG * np.float32(sign))
        q_NGC = nearest(units_NGC * (np.float32(1.0) / m_NG)[..., None])
        error_NG = squared_error(units_NGC, q_NGC * m_NG[..., None])
        better = error_NG < best_error_NG
        best_error_NG = np.where(better, error_NG, best_error_NG)
        best_m_NG = np.where(better, m_NG, best_m_NG)
        best_q_NGC = np.where(better[..., None], q_NGC, best_q_NGC)
    return best_q_NGC.reshape(count, -1).astype(np.int8), best_m_NG.astype(np.int8), scales_N


def squared_error(units_NGC: Floats, approximation_NGC: Floats) -> Floats:
    """Sum of squared differences over the last axis, in float32 and in a fixed order: halves added pairwise.

    The order is part of the format's definition: it decides ties between multipliers, so native packers follow it.
    """
    terms = (units_NGC - approximation_NGC) ** 2
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        terms = terms[..., :half] + terms[..., half:]
    result: Floats = terms[..., 0]
    return result


def encode(rows_ND: AnyArray, into: Packed, first_row: int) -> None:
    """Pack rows into rows first_row.. of a 2-D weight; the specification of Packer.encode."""
    if isinstance(into, Dense):
        into.values[first_row : first_row + len(rows_ND)] = rows_ND
        return
    if isinstance(into, Fp8):
        store_fp8(rows_ND, into, first_row)
        return
    if isinstance(into, Refined):
        encode(rows_ND, into.coarse, first_row)
        lost_ND = rows_ND.astype(np.float32) - decode(into.coarse)[first_row : first_row + len(rows_ND)]
        encode(lost_ND, into.residual, first_row)
        return
    rows, columns = len(rows_ND), into.shape[-1]
    padded_ND = np.zeros((padded(rows, PANEL_ROWS), padded(columns, COLUMN_STEP)), np.float32)
    padded_ND[:rows, :columns] = rows_ND
    panels = slice(first_row // PANEL_ROWS, (first_row + len(padded_ND)) // PANEL_ROWS)
    if isinstance(into, Int8):
        codes_ND, scales_N = quantize_int8(padded_ND)
        into.codes[panels] = codes_ND.reshape(-1, PANEL_ROWS, codes_ND.shape[1] // 4, 4).swapaxes(1, 2)
    elif isinstance(into, Group4):
        into.codes[panels], into.halves[panels] = pack_groups(*quantize_group4(padded_ND))
        return
    else:
        codes_ND, m_NG, scales_N = quantize_int4(padded_ND)
        into.codes[panels], into.multipliers[panels] = pack_nibbles(codes_ND, m_NG)
    into.scales[first_row : first_row + len(padded_ND)] = scales_N


def quantize_group4(rows_ND: Floats) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """Codes 0..15 from the least to the largest value of each group, their float16 scales and zero points [N, G]."""
    groups_NGC = rows_ND.reshape(len(rows_ND), -1, GROUP_COLUMNS)
    low_NG = groups_NGC.min(axis=-1)
    scales_NG = ((groups_NGC.max(axis=-1) - low_NG) / np.float32(15)).astype(np.float16).astype(np.float32)
    inverse_NG = np.divide(np.float32(1), scales_NG, out=np.zeros_like(scales_NG), where=scales_NG > 0)
    zeros_NG = np.rint(-low_NG * inverse_NG)
    q_NGC = np.clip(np.rint(groups_NGC * inverse_NG[..., None]) + zeros_NG[..., None], 0, 15)
    return q_NGC.reshape(rows_ND.shape).astype(np.uint8), scales_NG, zeros_NG


def pack_groups(
    q_ND: npt.NDArray[np.uint8], s_NG: Floats, z_NG: Floats
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Codes, scales and zero points of whole panels in the layout of Group4."""
    halves = np.stack([s_NG, z_NG]).astype(np.float16).reshape(2, -1, PANEL_ROWS, s_NG.shape[1])
    return pack_codes(q_ND), halves.transpose(1, 3, 0, 2)


def store_fp8(rows_ND: AnyArray, into: Fp8, first_row: int) -> None:
    """Nearest float8 values with one scale per row, max|w| / 448."""
    values_ND = rows_ND.astype(np.float32)
    scales_N = np.abs(values_ND).max(axis=-1) / np.float32(FP8_LARGEST)
    inverse_N = np.divide(np.float32(1), scales_N, out=np.zeros_like(scales_N), where=scales_N > 0)
    bounded_ND = np.clip(values_ND * inverse_N[:, None], -FP8_LARGEST, FP8_LARGEST)
    into.values[first_row : first_row + len(rows_ND)] = bounded_ND.astype(FP8).view(np.uint8)
    into.scales[first_row : first_row + len(rows_ND)] = scales_N


def pack_codes(stored_ND: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Nibbles of whole panels in the layout of Int4.codes."""
    panels, groups = len(stored_ND) // PANEL_ROWS, stored_ND.shape[1] // GROUP_COLUMNS
    codes = stored_ND.reshape(panels, PANEL_ROWS, groups, 2, 4, 4)
    return join_nibbles(codes.transpose(0, 2, 3, 4, 1, 5))  # panel, group, half, j, row, i


def pack_nibbles(
    q_ND: npt.NDArray[np.int8], m_NG: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Levels and multipliers of whole panels in the layout of Int4."""
    panels, groups = len(q_ND) // PANEL_ROWS, m_NG.shape[1]
    stored = np.where(m_NG < 0, m_NG + 8, m_NG + 7).astype(np.uint8)
    stored = stored.reshape(panels, 2, PANEL_ROWS // 2, groups).transpose(0, 3, 1, 2)
    return pack_codes(codes_of(q_ND)), join_nibbles(stored)


def join_nibbles(halves: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Axis 2 has the low and the high nibbles; they become one byte."""
    result: npt.NDArray[np.uint8] = halves[:, :, 0] | (halves[:, :, 1] << np.uint8(4))
    return result


# Reading packed weights back -------------------------------------------------------------------------------------


def integer_rows(weight: Int8 | Int4) -> npt.NDArray[np.int8]:
    """The integers the inner product uses, int8 [rows, padded columns]: q of Int8, m * q of Int4."""
    if isinstance(weight, Int8):
        panels, quads = weight.codes.shape[:2]
        return weight.codes.swapaxes(1, 2).reshape(panels * PANEL_ROWS, quads * 4)
    panels, groups = weight.codes.shape[:2]
    q = LEVELS[nibbles(weight.codes)]
    stored = np.concatenate([weight.multipliers & 15, weight.multipliers >> 4], axis=2).astype(np.int8)
    m = np.where(stored < 8, stored - 8, stored - 7).astype(np.int8)
    m_NG = m.transpose(0, 2, 1).reshape(panels * PANEL_ROWS, groups)
    result: npt.NDArray[np.int8] = (q * m_NG[..., None]).reshape(panels * PANEL_ROWS, -1)
    return result


def nibbles(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The codes of Int4.codes or Group4.codes as they are stored, uint8 [rows, groups, 32]."""
    panels, groups = codes.shape[:2]
    halves = np.stack([codes & 15, codes >> 4], axis=2)
    return halves.transpose(0, 4, 1, 2, 3, 5).reshape(panels * PANEL_ROWS, groups, GROUP_COLUMNS)


def decode(weight: Packed) -> Floats:
    """The values a packed weight stands for, float32 [..., N, D]."""
    if isinstance(weight, Dense):
        return weight.values.astype(np.float32)
    if isinstance(weight, Refined):
        return decode(weight.coarse) + decode(weight.residual)
    if len(weight.shape) > 2:
        return np.stack([decode(matrix(weight, i)) for i in range(weight.shape[0])])
    rows, columns = weight.shape
    if isinstance(weight, Fp8):
        values: Floats = weight.values.view(FP8).astype(np.float32)
        return values * weight.scales[:, None]
    if isinstance(weight, Group4):
        halves = weight.halves.astype(np.float32).transpose(2, 0, 3, 1).reshape(2, -1, weight.halves.shape[1], 1)
        grouped: Floats = (nibbles(weight.codes) - halves[1]) * halves[0]
        return grouped.reshape(len(grouped), -1)[:rows, :columns]
    values = integer_rows(weight).astype(np.float32) * weight.scales[:, None]
    return values[:rows, :columns]
