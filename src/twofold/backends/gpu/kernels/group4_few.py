"""Products of a few rows with four-bit weights in groups: y_r = W x_r, w = s (q - z).

A program takes some rows of W and all of their columns, a thread a group of 32 codes (16 bytes) at a time. Of a group

    sum(s (q - z) x) = s (16 sum((1 + q / 16) x) - (16 + z) sum(x))

where 1 + q / 16 is made from the bits of q by a shift and one logical instruction. Activations are used as they are,
float32 or bfloat16; everything is float32, and a sum has the same order whatever else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.tiles import read_tile
from twofold.backends.gpu.weights import Group4Weight

GROUP_BYTES = 16
GROUP_COLUMNS = 32


@dataclass(frozen=True)
class Tiling:
    """Rows and bytes of each that a program reads at once, and its warps."""

    rows: int
    row_bytes: int
    warps: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a product of few rows is taken of, beside its weight.

    active 0: one matrix for all rows. Otherwise row r is x row r // active times expert r, scaled by gate r.
    """

    x_TD: Tensor
    y_RN: Tensor
    add_RN: Tensor | None = None
    active: int = 0
    experts_R: Tensor | None = None
    gates_R: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Rows that one program takes."""
        return 1 if self.active else len(self.x_TD)

    @property
    def programs(self) -> int:
        """Programs for each tile of a matrix's rows."""
        return len(self.y_RN) if self.active else 1

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """experts, gates, add and y; y stands for what there is none of."""
        experts, gates, add = (
            self.y_RN if item is None else item for item in (self.experts_R, self.gates_R, self.add_RN)
        )
        return experts, gates, add, self.y_RN

    def constants(self) -> dict[str, Any]:
        """What kernels are compiled for."""
        return {
            "TOKENS": self.tokens,
            "ACTIVE": self.active,
            "HAS_GATES": self.gates_R is not None,
            "HAS_ADD": self.add_RN is not None,
        }


CONFIGS = (
    Tiling(4, 512, 4),
    Tiling(4, 1024, 4),
    Tiling(8, 512, 4),
    Tiling(8, 1024, 4),
    Tiling(2, 2048, 4),
    Tiling(4, 512, 1),
    Tiling(4, 512, 2),
)
"""What a sweep tries."""


@triton.jit
def unpack(words, position: tl.constexpr):
    """1 + q / 16 of the code q at bits position .. position + 3 of every word, as float32."""
    if position <= 19:
        placed = words << (19 - position)
    else:
        placed = words >> (position - 19)
    return ((placed & 0x780000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def four_columns(words, first: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """1 + q / 16 of the codes at bits first, first + 8, + 16 and + 24: [ROWS, GROUPS, 16] in the order of columns."""
    even = tl.join(unpack(words, first), unpack(words, first + 16))
    odd = tl.join(unpack(words, first + 8), unpack(words, first + 24))
    return tl.reshape(tl.join(even, odd), [ROWS, GROUPS, 16])


@triton.jit
def unpack_groups(words, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """1 + q / 16 of all codes of words [ROWS, GROUPS * 4]: float32 [ROWS, GROUPS * 32] in the order of columns."""
    low = four_columns(words, 0, ROWS, GROUPS)
    high = four_columns(words, 4, ROWS, GROUPS)
    return tl.reshape(tl.permute(tl.join(low, high), [0, 1, 3, 2]), [ROWS, GROUPS * 32])


@triton.jit
def few_group4_kernel(
    x, codes, scales, zeros, experts, gates, add, y, N, stored_rows, x_stride, add_stride,
    D: tl.constexpr, GROUPS_OF_ROW: tl.constexpr, TOKENS: tl.constexpr, ACTIVE: tl.constexpr,
    HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """codes int32 words [E, N16, G, 4]; scales, zeros f16 [E, N16, G]; the rest as in few_kernel."""
    WORDS: tl.constexpr = GROUPS * 4
    MASKED: tl.constexpr = GROUPS_OF_ROW % GROUPS != 0
    row = tl.minimum(tl.program_id(0) * ROWS + tl.arange(0, ROWS), N - 1)
    out = tl.program_id(1)
    token = 0
    expert = 0
    if ACTIVE > 0:
        token = out // ACTIVE
        expert = tl.load(experts + out)
    first = (tl.cast(expert, tl.int64) * stored_rows + row) * GROUPS_OF_ROW
    x_row = x + tl.cast(token, tl.int64) * x_stride
    word = tl.arange(0, WORDS)
    zero = tl.zeros([ROWS, GROUPS], tl.float32)
    sums = (zero,)
    for _ in tl.static_range(TOKENS - 1):
        sums = sums + (zero,)  # noqa: RUF005
    for start in range(0, GROUPS_OF_ROW, GROUPS):
        group = start + tl.arange(0, GROUPS)
        places = first[:, None] + group[None, :]
        word_places = first[:, None] * 4 + (start * 4 + word)[None, :]
        inside = (group < GROUPS_OF_ROW)[None, :]
        words = read_tile(codes + word_places, (start * 4 + word < GROUPS_OF_ROW * 4)[None, :], MASKED)
        scale = read_tile(scales + places, inside, MASKED).to(tl.float32)
        zero_point = read_tile(zeros + places, inside, MASKED).to(tl.float32)
        units = unpack_groups(words, ROWS, GROUPS)
        offset = -scale * (zero_point + 16.0)
        column = start * 32 + tl.arange(0, GROUPS * 32)
        grown = ()
        for t in tl.static_range(TOKENS):
            x_D = read_tile(x_row + t * x_stride + column, column < D, D % (GROUPS * 32) != 0).to(tl.float32)
            products = tl.sum(tl.reshape(units * x_D[None, :], [ROWS, GROUPS, 32]), axis=2)
            x_sums = tl.sum(tl.reshape(x_D, [GROUPS, 32]), axis=1)
            grown = grown + (sums[t] + (scale * 16.0 * products + offset * x_sums[None, :]),)  # noqa: RUF005
        sums = grown
    for t in tl.static_range(TOKENS):
        result = tl.sum(sums[t], axis=1)
        if HAS_GATES:
            result *= tl.load(gates + out)
        if HAS_ADD:
            result += tl.load(add + t * add_stride + row).to(tl.float32)
        tl.store(y + tl.cast(out + t, tl.int64) * N + row, result)


def choose(tokens: int) -> Tiling:
    """The tiling for so many tokens at once."""
    return Tiling(4 if tokens <= 4 else 2, 512, 4)


def launch_group4(rows: Rows, weight: Group4Weight, tiling: Tiling | None) -> None:
    """Fill rows.y_RN."""
    tiling = tiling or choose(rows.tokens)
    words = weight.codes.view(torch.int32)
    grid = (triton.cdiv(weight.shape[-2], tiling.rows), rows.programs)
    few_group4_kernel[grid](
        rows.x_TD,
        words,
        weight.scales,
        weight.zeros,
        *rows.arguments(),
        weight.shape[-2],
        weight.scales.shape[-2],
        rows.x_TD.stride(0),
        0 if rows.add_RN is None else rows.add_RN.stride(0),
        D=weight.shape[-1],
        GROUPS_OF_ROW=weight.scales.shape[-1],
        **rows.constants(),
        ROWS=tiling.rows,
        GROUPS=tiling.row_bytes // GROUP_BYTES,
        num_warps=tiling.warps,
    )
