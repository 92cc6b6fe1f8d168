"""What each packed weight is, bit by bit.

    Dense   w[n, d]                       float32 or bfloat16, row after row
    Int8    w[n, d] = s[n] * q            q in -127..127, s float32 per output row                     8.0 bit
    Int4    w[n, d] = s[n] * m[n, g] * q  q of the 16 ops.levels, m in -8..-1, 1..8 per group g of 32
                                          columns                                                  4.125 bit
    Refined w[n, d] = coarse + residual   both Int4, the residual holding what rounding cost the coarse one: 8.25 bit,
                                          of which a head reads the first half for every token (Ops.logits)
    Group4  w[n, d] = s[n, g] * (q - z[n, g])  q in 0..15, s and z float16 per group g of 32 columns      5 bit
    Fp8     w[n, d] = s[n] * v            v float8 e4m3, s float32 per output row                       8.0 bit

The last two are how other people's checkpoints are run as they are; nothing is quantised to them while loading.

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
    Group4.codes uint8 [panel, group, 4, row, 4]  as Int4.codes, stored as q
    Group4.halves float16 [panel, group, 2, row]  s, then z
    Fp8.values   uint8 [row, column]              the bits of float8_e4m3fn, row after row

A panel of Int8 is at the same time a tile of AMX: 16 rows of 64 bytes. Stacks of experts have one more axis in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import ml_dtypes
import numpy as np
import numpy.typing as npt

from twofold.ops.types import Target

PANEL_ROWS = 16
COLUMN_STEP = 64
GROUP_COLUMNS = 32

REFINED_SHARE = 64  # Ops.logits refines one panel in so many,
REFINED_LEAST = 64  # but at least this many

Format = Literal["f32", "bf16", "int8", "int4", "refined", "group4", "fp8"]
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


@dataclass(frozen=True)
class Group4:
    """Four-bit codes with a float16 scale and zero point per group; see the module for the layout."""

    codes: npt.NDArray[np.uint8]
    halves: npt.NDArray[np.float16]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Fp8:
    """float8 e4m3 values (their bits) with one scale per output row."""

    values: npt.NDArray[np.uint8]
    scales: Floats
    shape: tuple[int, ...]


Packed: TypeAlias = Dense | Int8 | Int4 | Refined | Group4 | Fp8


class Packer(Protocol):
    """Allocates packed weights and fills them row by row. Every backend's packer writes the same bits.

    moves_weights: `finish` takes weights out of the arena, so that one for a single weight is enough at a time.
    """

    @property
    def moves_weights(self) -> bool:
        """See the class."""
        ...

    def finish(self, weight: Packed, target: Target) -> Any:
        """The weight of this target as the backend keeps it, once it is packed."""
        ...

    def arena(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory for weights: uint8 [size_bytes], 64-byte aligned, contents undefined."""
        ...

    def encode(self, rows_ND: AnyArray, into: Packed, first_row: int) -> None:
        """Pack rows_ND (float32, float16 or bfloat16, any strides) into rows first_row.. of the 2-D weight `into`.

        first_row is a multiple of PANEL_ROWS; so is the number of rows, unless they are the last ones.
        """
        ...


@runtime_checkable
class MappingPacker(Packer, Protocol):
    """A packer whose weights may lie where a file has them, until they are copied behind whoever uses them."""

    def map_file(self, descriptor: int, begin: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """These bytes of an open file as an arena, read only, its contents there at once.

        None where reading them is better: the system's cache does not hold them, the file ends sooner, the system
        refuses. The file must not become shorter before `settle` returns.
        """
        ...

    def settle(self) -> None:
        """Wait until all arenas of files are copied into the process's own memory. OutOfMemory when that failed."""
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
    if form == "fp8":
        return [(shape, np.dtype(np.uint8)), ((*stack, rows), np.dtype(np.float32))]
    panels = padded(rows, PANEL_ROWS) // PANEL_ROWS
    width = padded(columns, COLUMN_STEP)
    scales = ((*stack, panels * PANEL_ROWS), np.dtype(np.float32))
    if form == "int8":
        return [((*stack, panels, width // 4, PANEL_ROWS, 4), np.dtype(np.int8)), scales]
    groups = width // GROUP_COLUMNS
    codes = ((*stack, panels, groups, 4, PANEL_ROWS, 4), np.dtype(np.uint8))
    if form == "group4":
        return [codes, ((*stack, panels, groups, 2, PANEL_ROWS), np.dtype(np.float16))]
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
    if form == "group4":
        return Group4(arrays[0], arrays[1], shape)
    if form == "fp8":
        return Fp8(arrays[0], arrays[1], shape)
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
    if isinstance(weight, Group4):
        return Group4(weight.codes[index], weight.halves[index], weight.shape[1:])
    if isinstance(weight, Fp8):
        return Fp8(weight.values[index], weight.scales[index], weight.shape[1:])
    assert isinstance(weight, Int4), "only heads and embeddings are Refined, and they come alone"
    return Int4(weight.codes[index], weight.multipliers[index], weight.scales[index], weight.shape[1:])
