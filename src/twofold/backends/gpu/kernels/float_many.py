"""Float products of many rows, expert by expert: y_r = gate_r W_e x_(r // active) by tiles on the matrix units.

The rows of y come in blocks, each of one expert (order.py). A program takes a block and some rows of W. Its sums are
float32; the gate and the scales are multiplied in at the end, which is the same as scaling x, as products are linear.
bfloat16 and float32 weights meet x in their own dtype. float8 weights meet x quantised to float8 row by row where the
device multiplies those, else bfloat16, which holds every float8 value.
Four-bit weights have a kernel of their own (group4_many.py).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.fp8 import decode_fp8, has_fp8, quantize_fp8
from twofold.backends.gpu.kernels.group4_many import WIDENED_FROM, launch_group4, widened
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import Blocks, Order, Tiling, block_rows, place_program, read_tile
from twofold.backends.gpu.weights import DenseWeight, Fp8Weight, Group4Weight

FloatWeight: TypeAlias = DenseWeight | Fp8Weight | Group4Weight

FLOAT32_BYTES = 4
CONFIGS = {
    128: (Tiling(256, 128, 8, 4, 4), Tiling(256, 128, 8, 4, 8), Tiling(128, 128, 4, 4, 8)),
    64: (Tiling(256, 128, 8, 4), Tiling(128, 128, 4, 4)),
    32: (Tiling(128, 256, 4, 4), Tiling(64, 256, 4, 4)),
    16: (Tiling(64, 512, 4, 3), Tiling(32, 512, 4, 3), Tiling(16, 512, 4, 4)),
}
"""What a sweep tries, by rows of a block."""


@triton.jit(do_not_specialize=["row_count", "block_count"])
def many_kernel(
    x, x_scales, weight, weight_scales, rows, experts, gates, y, N, x_stride, row_count, block_count,
    D: tl.constexpr, ACTIVE: tl.constexpr, FORMAT: tl.constexpr, HAS_GATES: tl.constexpr, TARGET: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """x_TD f32 | bf16 | float8; weight [E, N, D] f32 | bf16 | float8 | uint8; scales f32; rows, experts int32; y_RN.

    FORMAT: "dense", "fp8" (both sides float8), "bits" (uint8 weights decoded to bfloat16).
    """
    block, tile = place_program(block_count, tl.cdiv(N, ROWS), TOGETHER)
    expert, row, is_row, token = block_rows(rows, experts, block, row_count, ACTIVE, BLOCK)
    if expert < 0:
        return
    out = tile * ROWS + tl.arange(0, ROWS)
    weight_row = expert * N + tl.minimum(out, N - 1)
    column = tl.arange(0, COLUMNS)
    x_tile = x + token[:, None] * x_stride + column[None, :]
    weight_tile = weight + (weight_row * D)[None, :] + column[:, None]
    sums = tl.zeros([BLOCK, ROWS], tl.float32)
    for start in range(0, D, COLUMNS):
        inside = start + column < D
        a = read_tile(x_tile, inside[None, :], D % COLUMNS != 0)
        b = read_tile(weight_tile, inside[:, None], D % COLUMNS != 0)
        if FORMAT == "bits":
            b = decode_fp8(b, False).to(tl.bfloat16)
        if TARGET == "plain":  # the interpreter has no product of bfloat16
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision="ieee")
        x_tile += COLUMNS
        weight_tile += COLUMNS
    if FORMAT != "dense":
        sums *= tl.load(weight_scales + weight_row)[None, :]
    if FORMAT == "fp8":
        sums *= tl.load(x_scales + token)[:, None]
    if HAS_GATES:
        sums *= tl.load(gates + row, mask=is_row, other=0.0)[:, None]
    places = tl.where(is_row, row, 0).to(tl.int64)[:, None] * N + out[None, :]
    tl.store(y + places, sums.to(y.dtype.element_ty), mask=is_row[:, None] & (out < N)[None, :])


def choose(block: int, item_bytes: int, target_name: str) -> Tiling:
    """The tiling for blocks of so many rows and values of so many bytes.

    AMD's 64 KiB of shared memory hold two smaller stages. float32 has no matrix unit: its sums need their registers.
    """
    if item_bytes == FLOAT32_BYTES and block >= 64:
        return Tiling(128, 128, 8, 2)
    if target_name == "hip":
        return Tiling(128, 64, 8, 2) if block >= 64 else Tiling(64, 128, 4, 2)
    return CONFIGS[block][0]


def many_routed(
    x_TD: Tensor,
    active: int,
    order: Order,
    gates_R: Tensor | None,
    weight: FloatWeight,
    out_dtype: torch.dtype = torch.float32,
    tiling: Tiling | None = None,
) -> Tensor:
    """Row r of the result is gate r times its expert times x row r // active: [R, N] in `out_dtype`.

    order: an Order of all R rows; gates_R float32. x is float32 or bfloat16.
    """
    blocks = Blocks.ordered(x_TD, active, order, gates_R)
    y_RN = torch.empty(blocks.rows, weight.shape[-2], dtype=out_dtype, device=x_TD.device)
    if blocks.rows:
        start(blocks, weight, y_RN, tiling)
    return y_RN


def many(
    x_TD: Tensor, weight: FloatWeight, out_dtype: torch.dtype = torch.float32, tiling: Tiling | None = None
) -> Tensor:
    """W x of many tokens: [T, N] in `out_dtype`. The library's products serve dense and float8 weights better."""
    if isinstance(weight, Group4Weight) and len(x_TD) >= WIDENED_FROM:
        return (x_TD.to(torch.bfloat16) @ widened(weight).t()).to(out_dtype)
    blocks = Blocks.plain(x_TD)
    y_TN = torch.empty(len(x_TD), weight.shape[-2], dtype=out_dtype, device=x_TD.device)
    if blocks.rows:
        start(blocks, weight, y_TN, tiling)
    return y_TN


def start(blocks: Blocks, weight: FloatWeight, y_RN: Tensor, tiling: Tiling | None) -> None:
    """Start the kernel for this format."""
    if isinstance(weight, Group4Weight):
        launch_group4(blocks, weight, y_RN, tiling)
        return
    values, x_TD, x_scales, weight_scales, kind = weight.values, blocks.x_TD, y_RN, y_RN, "dense"
    if isinstance(weight, Fp8Weight):
        weight_scales = weight.scales
        if has_fp8(values.device):
            kind = "fp8"
            x_TD, x_scales = quantize_fp8(x_TD)
        else:
            kind, values, x_TD = "bits", values.view(torch.uint8), x_TD.to(torch.bfloat16)
    else:
        x_TD = x_TD.to(values.dtype)
    item_bytes = x_TD.element_size()
    tiling = tiling or choose(blocks.block, item_bytes, target())
    launch(
        many_kernel,
        (blocks.count * cdiv(weight.shape[-2], tiling.rows),),
        x_TD,
        x_scales,
        values,
        weight_scales,
        blocks.rows_P,
        blocks.expert_B,
        y_RN if blocks.gates_R is None else blocks.gates_R,
        y_RN,
        weight.shape[-2],
        x_TD.stride(0),
        blocks.rows,
        blocks.count,
        D=weight.shape[-1],
        ACTIVE=blocks.active,
        FORMAT=kind,
        HAS_GATES=blocks.gates_R is not None,
        TARGET=target(),
        BLOCK=blocks.block,
        ROWS=tiling.rows,
        COLUMNS=tiling.row_bytes // item_bytes,
        TOGETHER=tiling.together,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )


_ARGUMENTS = (
    "x:*{} x_scales:*fp32 weight:*{} weight_scales:*fp32 rows:*i32 experts:*i32 gates:*fp32 y:*bf16 N:i32:16"
    " x_stride:i32:16 row_count:i32 block_count:i32"
)
_CONSTANTS = {"D": 5120, "ACTIVE": 1, "HAS_GATES": True, "TOGETHER": 4}
SIGNATURES = {
    name: Signature(
        kernel=many_kernel,
        arguments=_ARGUMENTS.format(x, weight),
        constants=_CONSTANTS | {"FORMAT": kind, "BLOCK": block, "ROWS": tile.rows, "COLUMNS": tile.row_bytes // item},
        warps=tile.warps,
        stages=tile.stages,
        targets=targets,
    )
    for name, x, weight, kind, item, block, tile, targets in (
        ("prefill, bfloat16", "bf16", "bf16", "dense", 2, 128, CONFIGS[128][0], ("sm_80", "sm_90")),
        ("prefill, bfloat16, AMD", "bf16", "bf16", "dense", 2, 128, choose(128, 2, "hip"), ("gfx942",)),
        ("prefill, float8", "fp8e4nv", "fp8e4nv", "fp8", 1, 128, CONFIGS[128][0], ("sm_90",)),
        ("prefill, float8 as bfloat16", "bf16", "u8", "bits", 2, 128, choose(128, 2, "hip"), ("sm_80", "gfx942")),
        ("prefill, float32", "fp32", "fp32", "dense", 4, 128, choose(128, 4, "cuda"), ("sm_80", "sm_90", "gfx942")),
        ("16 rows, bfloat16", "bf16", "bf16", "dense", 2, 16, CONFIGS[16][0], ("sm_80", "sm_90")),
    )
}
"""What test_compiles watches."""
