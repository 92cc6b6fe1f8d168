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

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import find_row, read_tile
from twofold.backends.gpu.weights import Group4Weight

GROUP_BYTES = 16
LOAD_BYTES = 16
"""What a thread loads at once: the codes of a group."""
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


CONFIGS = (Tiling(4, 512, 1), Tiling(2, 512, 1), Tiling(8, 512, 1), Tiling(4, 1024, 1), Tiling(8, 512, 2))
"""What a sweep tries; the first is taken. One warp a program: nothing it reads has to be shared with another."""


_BYTES = tl.constexpr(
    "{ .reg .b32 t, c; mov.b32 c, 0x3F000000; lop3.b32 t, $4, 0x0F0F0F0F, 0x80808080, 0xEA;"
    " prmt.b32 $0, t, c, 0x7044; prmt.b32 $1, t, c, 0x7144; prmt.b32 $2, t, c, 0x7244; prmt.b32 $3, t, c, 0x7344; }"
)


@triton.jit
def placed_byte(words, byte: tl.constexpr):
    """The bits of 1 + q / 128, where q is the low nibble of a byte of every word."""
    return (((words >> (8 * byte)) & 0x0F) << 16) | 0x3F800000


@triton.jit
def beside(left, right, GROUPS: tl.constexpr, COLUMNS: tl.constexpr):
    """Two tiles [GROUPS, COLUMNS] side by side; nothing leaves its thread."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), [GROUPS, 2 * COLUMNS])


@triton.jit
def read_eight(x, columns, limit, MASKED: tl.constexpr, PER_LOAD: tl.constexpr, GROUPS: tl.constexpr):
    """Eight columns of every group from `columns` on, float32 [GROUPS, 8], by loads of 16 bytes."""
    places = columns[:, None] + tl.arange(0, PER_LOAD)[None, :]
    found = read_tile(x + places, places < limit, MASKED)
    if PER_LOAD == 4:
        found = beside(found, read_tile(x + places + 4, places + 4 < limit, MASKED), GROUPS, 4)
    return found.to(tl.float32)


@triton.jit
def read_groups(x, columns, limit, MASKED: tl.constexpr, PER_LOAD: tl.constexpr, GROUPS: tl.constexpr):
    """The 32 columns of every group, float32 [GROUPS, 32]: each thread has its groups whole, as it has their codes."""
    first = read_eight(x, columns, limit, MASKED, PER_LOAD, GROUPS)
    second = read_eight(x, columns + 8, limit, MASKED, PER_LOAD, GROUPS)
    third = read_eight(x, columns + 16, limit, MASKED, PER_LOAD, GROUPS)
    fourth = read_eight(x, columns + 24, limit, MASKED, PER_LOAD, GROUPS)
    return beside(beside(first, second, GROUPS, 8), beside(third, fourth, GROUPS, 8), GROUPS, 16)


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
    """1 + q / 128 of all codes of words [ROWS, GROUPS * 4]: float32 [ROWS, GROUPS, 32] in the order of columns."""
    low = four_columns(words, ROWS, GROUPS, TARGET)
    high = four_columns(words >> 4, ROWS, GROUPS, TARGET)
    return tl.reshape(tl.permute(tl.join(low, high), [0, 1, 3, 2]), [ROWS, GROUPS, 32])


@triton.jit
def read_codes(codes, scales, zeros, first, start, GROUPS_OF_ROW: tl.constexpr, GROUPS: tl.constexpr):
    """Words, scales and zero points of the groups from `start` on, nothing beyond the end of a row."""
    word = start * 4 + tl.arange(0, GROUPS * 4)
    group = start + tl.arange(0, GROUPS)
    is_word, is_group = (word < GROUPS_OF_ROW * 4)[None, :], (group < GROUPS_OF_ROW)[None, :]
    places = first[:, None] + group[None, :]
    words = tl.load(codes + first[:, None] * 4 + word[None, :], mask=is_word, other=0)
    scale = tl.load(scales + places, mask=is_group, other=0.0)
    zero_point = tl.load(zeros + places, mask=is_group, other=0.0)
    return words, scale, zero_point


@triton.jit
def few_group4_kernel(
    x, codes, scales, zeros, experts, gates, add, y, N, stored_rows, x_stride, add_stride,
    D: tl.constexpr, GROUPS_OF_ROW: tl.constexpr, TOKENS: tl.constexpr, ACTIVE: tl.constexpr,
    HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
    PER_LOAD: tl.constexpr, TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """codes int32 words [E, N16, G, 4]; scales, zeros f16 [E, N16, G]; the rest as in few_kernel."""
    row = tl.minimum(tl.program_id(0) * ROWS + tl.arange(0, ROWS), N - 1)
    out = tl.program_id(1)
    release(EARLY)
    token, expert = find_row(experts, out, ACTIVE, EARLY)
    first = (expert * stored_rows + row) * GROUPS_OF_ROW
    x_row = x + token * x_stride
    zero = tl.zeros([ROWS, GROUPS], tl.float32)
    sums = (zero,)
    for _ in tl.static_range(TOKENS - 1):
        sums = sums + (zero,)  # noqa: RUF005
    words, scale, zero_point = read_codes(codes, scales, zeros, first, 0, GROUPS_OF_ROW, GROUPS)
    if ACTIVE == 0:
        wait(EARLY)
    for start in range(0, GROUPS_OF_ROW, GROUPS):
        # what comes next is under way while this is multiplied
        following = read_codes(codes, scales, zeros, first, start + GROUPS, GROUPS_OF_ROW, GROUPS)
        units = unpack_groups(words, ROWS, GROUPS, TARGET)
        factor = scale.to(tl.float32)
        offset = -factor * (zero_point.to(tl.float32) + 128.0)
        columns = (start + tl.arange(0, GROUPS)) * 32
        grown = ()
        for t in tl.static_range(TOKENS):
            x_GC = read_groups(x_row + t * x_stride, columns, D, D % (GROUPS * 32) != 0, PER_LOAD, GROUPS)
            products = tl.sum(units * x_GC[None, :, :], axis=2)
            x_sums = tl.sum(x_GC, axis=1)
            added = tl.fma(offset, tl.broadcast_to(x_sums[None, :], [ROWS, GROUPS]), sums[t])
            grown = grown + (tl.fma(factor * 128.0, products, added),)  # noqa: RUF005
        sums = grown
        words, scale, zero_point = following
    for t in tl.static_range(TOKENS):
        result = tl.sum(sums[t], axis=1)
        if HAS_GATES:
            result *= tl.load(gates + out)
        if HAS_ADD:
            result += tl.load(add + (out + t) * add_stride + row).to(tl.float32)
        tl.store(y + tl.cast(out + t, tl.int64) * N + row, result)


def launch_group4(rows: Rows, weight: Group4Weight, tiling: Tiling | None) -> None:
    """Fill rows.y_RN."""
    tiling = tiling or CONFIGS[0]
    words = weight.codes.view(torch.int32)
    grid = (cdiv(weight.shape[-2], tiling.rows), rows.programs)
    launch(
        few_group4_kernel,
        grid,
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
        PER_LOAD=LOAD_BYTES // rows.x_TD.element_size(),
        TARGET=target(),
        **options(words.device),
        num_warps=tiling.warps,
    )


SIGNATURES = {
    name: Signature(
        kernel=few_group4_kernel,
        arguments="x:*fp32 codes:*i32 scales:*fp16 zeros:*fp16 experts:*i32 gates:*fp32 add:*fp32 y:*fp32 N:i32:16"
        " stored_rows:i32:16 x_stride:i32:16 add_stride:i32:16",
        constants={"D": 5120, "GROUPS_OF_ROW": 160, "TOKENS": tokens, "ACTIVE": 0, "HAS_GATES": False, "HAS_ADD": True,
                   "ROWS": 4, "GROUPS": 32, "PER_LOAD": 4},
        warps=1,
    )
    for name, tokens in (("one token", 1), ("four tokens", 4))
}  # fmt: skip
"""What test_compiles watches."""
