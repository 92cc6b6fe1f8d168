"""Products of a few rows with four-bit weights in groups: y_r = W x_r, w = s (q - z).

A program takes some rows of W and all of their columns, a thread a group of 32 codes (16 bytes) at a time. Of a group

    sum(s (q - z) x) = s (128 sum((1 + q / 128) x) - (128 + z) sum(x))

where 1 + q / 128 is made from the bits of q by one instruction. Activations are used as they are,
float32 or bfloat16; everything is float32, and a sum has the same order whatever else is in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import find_row, read_tile
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
    Tiling(16, 512, 4),
    Tiling(4, 1024, 4),
    Tiling(8, 1024, 4),
    Tiling(4, 512, 1),
    Tiling(8, 512, 2),
)
"""What a sweep tries."""


_BYTES = tl.constexpr(
    "{ .reg .b32 t, c; mov.b32 c, 0x3F000000; lop3.b32 t, $4, 0x0F0F0F0F, 0x80808080, 0xEA;"
    " prmt.b32 $0, t, c, 0x7044; prmt.b32 $1, t, c, 0x7144; prmt.b32 $2, t, c, 0x7244; prmt.b32 $3, t, c, 0x7344; }"
)


@triton.jit
def placed_byte(words, byte: tl.constexpr):
    """The bits of 1 + q / 128, where q is the low nibble of a byte of every word."""
    return (((words >> (8 * byte)) & 0x0F) << 16) | 0x3F800000


@triton.jit
def four_columns(words, ROWS: tl.constexpr, GROUPS: tl.constexpr, TARGET: tl.constexpr):
    """1 + q / 128 of the low nibbles of words: float32 [ROWS, GROUPS, 16] in the order of columns.

    One instruction brings a byte to where float32 has the upper seven bits of its fraction.
    """
    if TARGET == "cuda":
        first, second, third, fourth = tl.inline_asm_elementwise(
            _BYTES, "=r,=r,=r,=r,r", [words], dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1
        )
    else:
        first, second, third, fourth = (
            placed_byte(words, 0),
            placed_byte(words, 1),
            placed_byte(words, 2),
            placed_byte(words, 3),
        )
    bits = tl.join(tl.join(first, third), tl.join(second, fourth))
    return tl.reshape(bits, [ROWS, GROUPS, 16]).to(tl.float32, bitcast=True)


@triton.jit
def unpack_groups(words, ROWS: tl.constexpr, GROUPS: tl.constexpr, TARGET: tl.constexpr):
    """1 + q / 128 of all codes of words [ROWS, GROUPS * 4]: float32 [ROWS, GROUPS * 32] in the order of columns."""
    low = four_columns(words, ROWS, GROUPS, TARGET)
    high = four_columns(words >> 4, ROWS, GROUPS, TARGET)
    return tl.reshape(tl.permute(tl.join(low, high), [0, 1, 3, 2]), [ROWS, GROUPS * 32])


@triton.jit
def few_group4_kernel(
    x, codes, scales, zeros, experts, gates, add, y, N, stored_rows, x_stride, add_stride,
    D: tl.constexpr, GROUPS_OF_ROW: tl.constexpr, TOKENS: tl.constexpr, ACTIVE: tl.constexpr,
    HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """codes int32 words [E, N16, G, 4]; scales, zeros f16 [E, N16, G]; the rest as in few_kernel."""
    WORDS: tl.constexpr = GROUPS * 4
    MASKED: tl.constexpr = GROUPS_OF_ROW % GROUPS != 0
    row = tl.minimum(tl.program_id(0) * ROWS + tl.arange(0, ROWS), N - 1)
    out = tl.program_id(1)
    token, expert = find_row(experts, out, ACTIVE)
    first = (expert * stored_rows + row) * GROUPS_OF_ROW
    x_row = x + token * x_stride
    word = tl.arange(0, WORDS)
    zero = tl.zeros([ROWS, GROUPS], tl.float32)
    sums = (zero,)
    for _ in tl.static_range(TOKENS - 1):
        sums = sums + (zero,)  # noqa: RUF005
    group = tl.arange(0, GROUPS)
    places = first[:, None] + group[None, :]
    word_places = first[:, None] * 4 + word[None, :]
    words = read_tile(codes + word_places, (word < GROUPS_OF_ROW * 4)[None, :], MASKED)
    scale = read_tile(scales + places, (group < GROUPS_OF_ROW)[None, :], MASKED)
    zero_point = read_tile(zeros + places, (group < GROUPS_OF_ROW)[None, :], MASKED)
    for start in range(0, GROUPS_OF_ROW, GROUPS):
        after = start + GROUPS  # what comes next is under way while this is multiplied
        is_word, is_group = after * 4 + word < GROUPS_OF_ROW * 4, after + group < GROUPS_OF_ROW
        next_words = tl.load(codes + word_places + after * 4, mask=is_word[None, :], other=0)
        next_scale = tl.load(scales + places + after, mask=is_group[None, :], other=0.0)
        next_zero_point = tl.load(zeros + places + after, mask=is_group[None, :], other=0.0)
        units = unpack_groups(words, ROWS, GROUPS, TARGET)
        factor = scale.to(tl.float32)
        offset = -factor * (zero_point.to(tl.float32) + 128.0)
        column = start * 32 + tl.arange(0, GROUPS * 32)
        grown = ()
        for t in tl.static_range(TOKENS):
            x_D = read_tile(x_row + t * x_stride + column, column < D, D % (GROUPS * 32) != 0).to(tl.float32)
            products = tl.sum(tl.reshape(units * x_D[None, :], [ROWS, GROUPS, 32]), axis=2)
            x_sums = tl.sum(tl.reshape(x_D, [GROUPS, 32]), axis=1)
            grown = grown + (sums[t] + (factor * 128.0 * products + offset * x_sums[None, :]),)  # noqa: RUF005
        sums = grown
        words, scale, zero_point = next_words, next_scale, next_zero_point
    for t in tl.static_range(TOKENS):
        result = tl.sum(sums[t], axis=1)
        if HAS_GATES:
            result *= tl.load(gates + out)
        if HAS_ADD:
            result += tl.load(add + t * add_stride + row).to(tl.float32)
        tl.store(y + tl.cast(out + t, tl.int64) * N + row, result)


def choose(tokens: int) -> Tiling:
    """The tiling for so many tokens at once."""
    return Tiling(8 if tokens == 1 else 4 if tokens <= 4 else 2, 512, 4)


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
        TARGET=target(),
        num_warps=tiling.warps,
    )
