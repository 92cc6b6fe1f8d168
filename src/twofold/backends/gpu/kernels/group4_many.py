"""Products of many rows with four-bit weights in groups, expert by expert: codes become bfloat16 on their way to the
matrix units, w = s (q - z) rounded once, and x is taken as bfloat16.

Low nibbles are columns 0..15 of a group and high ones 16..31, so a tile of codes is two tiles of a product, each with
its own columns of x. The weight is the left side: it then stays in registers between its bytes and the product.
"""  # fmt: skip

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.group4_few import read_codes, unpack_groups
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import Blocks, Tiling, block_rows, place_program, read_tile
from twofold.backends.gpu.weights import Group4Weight

WIDENED_FROM = 256
"""Rows from which a whole matrix is better widened to bfloat16 first and multiplied by the library."""
CONFIGS = {
    128: (Tiling(128, 64, 8, 3), Tiling(64, 64, 4, 3), Tiling(64, 32, 4, 4)),
    64: (Tiling(128, 64, 8, 3), Tiling(64, 64, 4, 4)),
    32: (Tiling(64, 64, 4, 4), Tiling(64, 128, 4, 3)),
    16: (Tiling(64, 128, 4, 3), Tiling(64, 64, 4, 4), Tiling(64, 64, 4, 6)),
}
"""What a sweep tries, by rows of a block."""


_PLACE = tl.constexpr(
    "{ .reg .b32 t, c; mov.b32 c, 0x3F000000; lop3.b32 t, $4, 0x0F0F0F0F, 0x80808080, 0xEA;"
    " prmt.b32 $0, t, c, 0x7044; prmt.b32 $1, t, c, 0x7144; prmt.b32 $2, t, c, 0x7244; prmt.b32 $3, t, c, 0x7344; }"
)
_PLACE_HIGH = tl.constexpr(
    "{ .reg .b32 t, c; mov.b32 c, 0x3F000000; shr.u32 t, $4, 4; lop3.b32 t, t, 0x0F0F0F0F, 0x80808080, 0xEA;"
    " prmt.b32 $0, t, c, 0x7044; prmt.b32 $1, t, c, 0x7144; prmt.b32 $2, t, c, 0x7244; prmt.b32 $3, t, c, 0x7344; }"
)


@triton.jit
def nibble_values(packed, factor, offset, HIGH: tl.constexpr, TARGET: tl.constexpr):
    """factor * (1 + q / 128) + offset as bfloat16, of the low or HIGH nibbles of bytes.

    On CUDA four bytes of a register become four floats by one instruction each.
    """
    if TARGET == "cuda":
        if HIGH:
            bits = tl.inline_asm_elementwise(_PLACE_HIGH, "=r,=r,=r,=r,r", [packed], tl.int32, is_pure=True, pack=4)
        else:
            bits = tl.inline_asm_elementwise(_PLACE, "=r,=r,=r,=r,r", [packed], tl.int32, is_pure=True, pack=4)
    elif HIGH:
        bits = (packed.to(tl.int32) >> 4 << 16) | 0x3F800000
    else:
        bits = ((packed.to(tl.int32) & 15) << 16) | 0x3F800000
    values = bits.to(tl.float32, bitcast=True) * factor + offset
    if TARGET == "plain":  # the interpreter has no product of bfloat16
        return values
    return values.to(tl.bfloat16)


@triton.jit
def by_byte(x, ROWS: tl.constexpr, GROUPS: tl.constexpr):
    """What groups have [ROWS, GROUPS], for each of their bytes: [ROWS, GROUPS * 16]."""
    return tl.reshape(tl.broadcast_to(x[:, :, None], [ROWS, GROUPS, 16]), [ROWS, GROUPS * 16])


@triton.jit(do_not_specialize=["row_count", "block_count"])
def many_group4_kernel(
    x, codes, scales, zeros, rows, experts, gates, y, N, stored_rows, x_stride, row_count, block_count,
    D: tl.constexpr, GROUPS_OF_ROW: tl.constexpr, ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr,
    TARGET: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """x_TD bf16; codes uint8 [E, N16, G, 16]; scales, zeros f16 [E, N16, G]; the rest as in many_kernel."""
    MASKED: tl.constexpr = GROUPS_OF_ROW % GROUPS != 0
    X_MASKED: tl.constexpr = D % (GROUPS * 32) != 0
    block, tile = place_program(block_count, tl.cdiv(N, ROWS), TOGETHER)
    expert, row, is_row, token = block_rows(rows, experts, block, row_count, ACTIVE, BLOCK)
    if expert < 0:
        return
    out = tile * ROWS + tl.arange(0, ROWS)
    first_group = (expert * stored_rows + tl.minimum(out, N - 1)) * GROUPS_OF_ROW
    byte = tl.arange(0, GROUPS * 16)
    column = byte // 16 * 32 + byte % 16
    group = tl.arange(0, GROUPS)
    code_tile = codes + (first_group * 16)[:, None] + byte[None, :]
    x_tile = x + token[None, :] * x_stride + column[:, None]
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, GROUPS_OF_ROW, GROUPS):
        places = first_group[:, None] + (start + group)[None, :]
        inside = (start + group < GROUPS_OF_ROW)[None, :]
        packed = read_tile(code_tile, (start * 16 + byte < GROUPS_OF_ROW * 16)[None, :], MASKED)
        scale = read_tile(scales + places, inside, MASKED).to(tl.float32)
        zero_point = read_tile(zeros + places, inside, MASKED).to(tl.float32)
        x_low = read_tile(x_tile, (start * 32 + column < D)[:, None], X_MASKED)
        x_high = read_tile(x_tile + 16, (start * 32 + column + 16 < D)[:, None], X_MASKED)
        if TARGET == "plain":
            x_low = x_low.to(tl.float32)
            x_high = x_high.to(tl.float32)
        factor = by_byte(scale * 128.0, ROWS, GROUPS)
        offset = by_byte(-scale * (zero_point + 128.0), ROWS, GROUPS)
        sums = tl.dot(nibble_values(packed, factor, offset, False, TARGET), x_low, sums)
        sums = tl.dot(nibble_values(packed, factor, offset, True, TARGET), x_high, sums)
        code_tile += GROUPS * 16
        x_tile += GROUPS * 32
    if HAS_GATES:
        sums *= tl.load(gates + row, mask=is_row, other=0.0)[None, :]
    places = tl.where(is_row, row, 0).to(tl.int64)[None, :] * N + out[:, None]
    tl.store(y + places, sums.to(y.dtype.element_ty), mask=is_row[None, :] & (out < N)[:, None])


@triton.jit
def widen_kernel(
    codes, scales, zeros, values, N, stored_rows,
    D: tl.constexpr, GROUPS_OF_ROW: tl.constexpr, TARGET: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """codes int32 words [N16, G, 4]; scales, zeros f16 [N16, G]; values_ND bf16: s (q - z), rounded once."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * GROUPS
    first = tl.minimum(row, stored_rows - 1).to(tl.int64) * GROUPS_OF_ROW
    words, scale, zero_point = read_codes(codes, scales, zeros, first, start, GROUPS_OF_ROW, GROUPS)
    units = unpack_groups(words, ROWS, GROUPS, TARGET)
    factor = scale.to(tl.float32)
    offset = -factor * (zero_point.to(tl.float32) + 128.0)
    tile = tl.fma(units, tl.broadcast_to((factor * 128.0)[:, :, None], [ROWS, GROUPS, 32]), offset[:, :, None])
    column = start * 32 + tl.arange(0, GROUPS * 32)
    places = values + row.to(tl.int64)[:, None] * D + column[None, :]
    inside = (row < N)[:, None] & (column < D)[None, :]
    tl.store(places, tl.reshape(tile, [ROWS, GROUPS * 32]).to(tl.bfloat16), mask=inside)


def widened(weight: Group4Weight) -> Tensor:
    """The values of a matrix as bfloat16 [N, D]: worth the while from WIDENED_FROM rows of x on."""
    rows, columns = weight.shape
    groups = weight.scales.shape[-1]
    values = torch.empty(rows, columns, dtype=torch.bfloat16, device=weight.codes.device)
    launch(
        widen_kernel,
        (cdiv(rows, 4), cdiv(groups, 32)),
        weight.codes.view(torch.int32),
        weight.scales,
        weight.zeros,
        values,
        rows,
        weight.scales.shape[-2],
        D=columns,
        GROUPS_OF_ROW=groups,
        TARGET=target(),
        ROWS=4,
        GROUPS=32,
        num_warps=1,
    )
    return values


def choose(block: int, target_name: str) -> Tiling:
    """The tiling for blocks of so many rows. AMD's 64 KiB of shared memory hold fewer stages."""
    chosen = CONFIGS[block][0]
    return Tiling(chosen.rows, chosen.row_bytes, chosen.warps, 2) if target_name == "hip" else chosen


def launch_group4(blocks: Blocks, weight: Group4Weight, y_RN: Tensor, tiling: Tiling | None) -> None:
    """Fill y_RN. A tile's row_bytes are bytes of codes: 32 columns each 16."""
    tiling = tiling or choose(blocks.block, target())
    x_TD = blocks.x_TD.to(torch.bfloat16)
    launch(
        many_group4_kernel,
        (blocks.count * cdiv(weight.shape[-2], tiling.rows),),
        x_TD,
        weight.codes,
        weight.scales,
        weight.zeros,
        blocks.rows_P,
        blocks.expert_B,
        y_RN if blocks.gates_R is None else blocks.gates_R,
        y_RN,
        weight.shape[-2],
        weight.scales.shape[-2],
        x_TD.stride(0),
        blocks.rows,
        blocks.count,
        D=weight.shape[-1],
        GROUPS_OF_ROW=weight.scales.shape[-1],
        ACTIVE=blocks.active,
        HAS_GATES=blocks.gates_R is not None,
        TARGET=target(),
        BLOCK=blocks.block,
        ROWS=tiling.rows,
        GROUPS=tiling.row_bytes // 16,
        TOGETHER=tiling.together,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )


SIGNATURES = {
    f"blocks of {block}{where}": Signature(
        kernel=many_group4_kernel,
        arguments="x:*bf16 codes:*u8 scales:*fp16 zeros:*fp16 rows:*i32 experts:*i32 gates:*fp32 y:*bf16 N:i32:16"
        " stored_rows:i32:16 x_stride:i32:16 row_count:i32 block_count:i32",
        constants={"D": 5120, "GROUPS_OF_ROW": 160, "ACTIVE": 1, "HAS_GATES": True, "BLOCK": block, "ROWS": tile.rows,
                   "GROUPS": tile.row_bytes // 16, "TOGETHER": tile.together},
        warps=tile.warps,
        stages=tile.stages,
        targets=targets,
    )
    for block, where, tile, targets in (
        (128, "", choose(128, "cuda"), ("sm_80", "sm_90")),
        (16, "", choose(16, "cuda"), ("sm_80", "sm_90")),
        (128, ", AMD", choose(128, "hip"), ("gfx942",)),
    )
}  # fmt: skip
SIGNATURES |= {
    "widened": Signature(
        kernel=widen_kernel,
        arguments="codes:*i32 scales:*fp16 zeros:*fp16 values:*bf16 N:i32:16 stored_rows:i32:16",
        constants={"D": 5120, "GROUPS_OF_ROW": 160, "ROWS": 4, "GROUPS": 32},
        warps=1,
    )
}
"""What test_compiles watches."""
