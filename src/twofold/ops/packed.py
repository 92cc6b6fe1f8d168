"""What each packed weight is, bit by bit, and the plain way to make one.

    Dense   w[n, d]                       float32 or bfloat16, row after row
    Int8    w[n, d] = s[n] * q            q in -127..127, s float32 per output row                     8.0 bit
    Int4    w[n, d] = s[n] * m[n, g] * q  q of the 16 ops.levels, m in -8..-1, 1..8 per group g of 32
                                          columns                                                  4.125 bit
    Refined w[n, d] = coarse + residual   both Int4, the residual holding what rounding cost the coarse one: 8.25 bit,
                                          of which a head reads the first half for every token (Ops.logits)

m * q fits an int8, so with int8 activations the whole inner product is exact in int32 and one float scale per row
remains (the idea of QServe's progressive quantisation, with an integer inner level).

Order in memory. Sixteen output rows form a panel, padded with zeros; columns are padded to a multiple of 64. Four
consecutive columns of one row lie together (what the int8 dot instructions of x86 and Arm take), then the sixteen
rows, then the next four columns:

    Int8.codes  int8  [panel, quad, row, 4]       column = 4 * quad + last index
    Int4.codes  uint8 [panel, group, 4, row, 4]   low nibble: column 32 * group + 4 * j + i; high nibble: 16 further;
                                                  the code of a level, ops.levels
    Int4.multipliers uint8 [panel, group, 8]      low nibble: row i, high nibble: row i + 8;
                                                  stored n: m = n - 8 below 8, else n - 7

A panel of Int8 is at the same time a tile of AMX: 16 rows of 64 bytes. Stacks of experts have one more axis in front.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from twofold.ops.levels import LEVELS, REACH, codes_of, nearest

PANEL_ROWS = 16
COLUMN_STEP = 64
GROUP_COLUMNS = 32

REFINED_SHARE = 64  # Ops.logits refines one panel in so many,
REFINED_LEAST = 64  # but at least this many

Format = Literal["f32", "bf16", "int8", "int4", "refined"]
AnyArray: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]

BF16 = np.dtype(ml_dtypes.bfloat16)
DENSE_DTYPES: dict[Format, np.dtype[Any]] = {"f32": np.dtype(np.float32), "bf16": BF16}


@dataclass(frozen=True)
class Dense:
    """Values as they are: float32 or bfloat16 [..., N, D] (or [D] for a norm)."""

    values: AnyArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., N, D]."""
        return self.values.shape


@dataclass(frozen=True)
class Int8:
    """Eight-bit codes with one scale per output row; see the module for the layout."""

    codes: npt.NDArray[np.int8]
    scales: Floats
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Int4:
    """Four-bit codes, four-bit group multipliers and one scale per output row; see the module for the layout."""

    codes: npt.NDArray[np.uint8]
    multipliers: npt.NDArray[np.uint8]
    scales: Floats
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Refined:
    """An Int4 weight and a second one with what the first lost to rounding."""

    coarse: Int4
    residual: Int4

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., N, D]."""
        return self.coarse.shape


Packed: TypeAlias = Dense | Int8 | Int4 | Refined


class Packer(Protocol):
    """Allocates packed weights and fills them row by row. Every backend's packer writes the same bits."""

    def arena(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory for weights: uint8 [size_bytes], 64-byte aligned, contents undefined."""
        ...

    def encode(self, rows_ND: AnyArray, into: Packed, first_row: int) -> None:
        """Pack rows_ND (float32, float16 or bfloat16, any strides) into rows first_row.. of the 2-D weight `into`.

        first_row is a multiple of PANEL_ROWS; so is the number of rows, unless they are the last ones.
        """
        ...


def padded(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step


def fields(form: Format, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and dtypes of the arrays that hold a weight of logical `shape` in format `form`, in their order."""
    if form in DENSE_DTYPES:
        return [(shape, DENSE_DTYPES[form])]
    if form == "refined":
        return 2 * fields("int4", shape)
    *stack, rows, columns = shape
    panels = padded(rows, PANEL_ROWS) // PANEL_ROWS
    width = padded(columns, COLUMN_STEP)
    scales = ((*stack, panels * PANEL_ROWS), np.dtype(np.float32))
    if form == "int8":
        return [((*stack, panels, width // 4, PANEL_ROWS, 4), np.dtype(np.int8)), scales]
    groups = width // GROUP_COLUMNS
    codes = ((*stack, panels, groups, 4, PANEL_ROWS, 4), np.dtype(np.uint8))
    return [codes, ((*stack, panels, groups, PANEL_ROWS // 2), np.dtype(np.uint8)), scales]


def size_bytes(form: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a packed weight, each of its arrays rounded up to a cache line."""
    return sum(padded(int(np.prod(dims)) * dtype.itemsize, 64) for dims, dtype in fields(form, shape))


def place(form: Format, shape: tuple[int, ...], memory: npt.NDArray[np.uint8]) -> Packed:
    """A weight of logical `shape` over `memory` (uint8, at least size_bytes long); contents as they are there."""
    arrays: list[AnyArray] = []
    offset = 0
    for dims, dtype in fields(form, shape):
        count = int(np.prod(dims)) * dtype.itemsize
        arrays.append(memory[offset : offset + count].view(dtype).reshape(dims))
        offset += padded(count, 64)
    if form == "int8":
        return Int8(arrays[0], arrays[1], shape)
    if form == "int4":
        return Int4(arrays[0], arrays[1], arrays[2], shape)
    if form == "refined":
        coarse = Int4(arrays[0], arrays[1], arrays[2], shape)
        return Refined(coarse, Int4(arrays[3], arrays[4], arrays[5], shape))
    return Dense(arrays[0])


def refined_panels(rows: int) -> int:
    """How many panels of a Refined weight with so many rows Ops.logits refines for each token."""
    panels = padded(rows, PANEL_ROWS) // PANEL_ROWS
    return min(panels, max(REFINED_LEAST, padded(panels, REFINED_SHARE) // REFINED_SHARE))


def matrix(weight: Packed, index: int) -> Packed:
    """Matrix `index` of a stack, as a view."""
    if isinstance(weight, Dense):
        return Dense(weight.values[index])
    if isinstance(weight, Int8):
        return Int8(weight.codes[index], weight.scales[index], weight.shape[1:])
    assert isinstance(weight, Int4), "only heads and embeddings are Refined, and they come alone"
    return Int4(weight.codes[index], weight.multipliers[index], weight.scales[index], weight.shape[1:])


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
    else:
        codes_ND, m_NG, scales_N = quantize_int4(padded_ND)
        into.codes[panels], into.multipliers[panels] = pack_nibbles(codes_ND, m_NG)
    into.scales[first_row : first_row + len(padded_ND)] = scales_N


def pack_nibbles(
    q_ND: npt.NDArray[np.int8], m_NG: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Levels and multipliers of whole panels in the layout of Int4."""
    panels, groups = len(q_ND) // PANEL_ROWS, m_NG.shape[1]
    codes = codes_of(q_ND).reshape(panels, PANEL_ROWS, groups, 2, 4, 4)
    codes = codes.transpose(0, 2, 3, 4, 1, 5)  # panel, group, half, j, row, i
    stored = np.where(m_NG < 0, m_NG + 8, m_NG + 7).astype(np.uint8)
    stored = stored.reshape(panels, 2, PANEL_ROWS // 2, groups).transpose(0, 3, 1, 2)
    return join_nibbles(codes), join_nibbles(stored)


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
    halves = LEVELS[np.stack([weight.codes & 15, weight.codes >> 4], axis=2)]
    q = halves.transpose(0, 4, 1, 2, 3, 5).reshape(panels * PANEL_ROWS, groups, GROUP_COLUMNS)
    stored = np.concatenate([weight.multipliers & 15, weight.multipliers >> 4], axis=2).astype(np.int8)
    m = np.where(stored < 8, stored - 8, stored - 7).astype(np.int8)
    m_NG = m.transpose(0, 2, 1).reshape(panels * PANEL_ROWS, groups)
    result: npt.NDArray[np.int8] = (q * m_NG[..., None]).reshape(panels * PANEL_ROWS, -1)
    return result


def decode(weight: Packed) -> Floats:
    """The values a packed weight stands for, float32 [..., N, D]."""
    if isinstance(weight, Dense):
        return weight.values.astype(np.float32)
    if isinstance(weight, Refined):
        return decode(weight.coarse) + decode(weight.residual)
    if len(weight.shape) > 2:
        return np.stack([decode(matrix(weight, i)) for i in range(weight.shape[0])])
    rows, columns = weight.shape
    values = integer_rows(weight).astype(np.float32) * weight.scales[:, None]
    return values[:rows, :columns]


def quantize_activations(x_TD: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 codes and one scale per token: s = max|x| / 127, q = rint(x * (1 / s)); zeros give scale 0.

    Rounds half to even, in float32, exactly as written: backends must agree bit for bit.
    """
    return quantize_int8(x_TD)
