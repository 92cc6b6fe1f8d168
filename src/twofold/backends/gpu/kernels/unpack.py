"""Four-bit weights as the int8 of their inner product, for products of very many tokens by a library."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.integer_tiles import product_levels
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.level_rows import level_rows
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import Int4Weight, Int8Weight

ROWS_OF_PROGRAM = 16
BYTES_OF_PROGRAM = 256


def widened(weight: Int4Weight) -> Int8Weight:
    """The same matrix or stack with the integers of its inner product as codes: products give the same bits."""
    codes = unpack(weight).reshape(*weight.scales.shape, -1)
    return Int8Weight(codes, weight.scales, weight.shape)


def unpack(weight: Int4Weight) -> Tensor:
    """m * level of every code of a matrix or a stack, int8 [.. * N16, D64]."""
    rows, width = weight.scales.numel(), weight.codes.shape[-2] * 32
    integers = torch.empty(rows, width, dtype=torch.int8, device=weight.codes.device)
    grid = (rows // ROWS_OF_PROGRAM, cdiv(width // 2, BYTES_OF_PROGRAM))
    launch(
        unpack_kernel, grid,
        weight.codes, weight.multipliers, level_rows(weight.codes.device), integers,
        WIDTH=width, ROWS=ROWS_OF_PROGRAM, BYTES=BYTES_OF_PROGRAM, TARGET=target(), num_warps=4,
    )  # fmt: skip
    return integers


@triton.jit
def unpack_kernel(
    codes, multipliers, tables, integers,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS rows and BYTES bytes of codes."""
    rows_N = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    bytes_B = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    groups_G = tl.program_id(1) * (BYTES // 16) + tl.arange(0, BYTES // 16)
    is_there_B = (bytes_B < WIDTH // 2)[None, :]
    is_group_G = (groups_G * 32 < WIDTH)[None, :]
    codes_NB = tl.load(codes + rows_N[:, None] * (WIDTH // 2) + bytes_B[None, :], mask=is_there_B, other=0)
    stored_NG = tl.load(
        multipliers + rows_N[:, None] * (WIDTH // 64) + (groups_G // 2)[None, :], mask=is_group_G, other=0
    )
    stored_NG = (stored_NG.to(tl.int32) >> (groups_G % 2 * 4)[None, :]) & 15
    low_NB, high_NB = product_levels(codes_NB, stored_NG, tables, TARGET)
    places_NB = integers + rows_N[:, None] * WIDTH + (bytes_B // 16 * 32 + bytes_B % 16)[None, :]
    tl.store(places_NB, low_NB, mask=is_there_B)
    tl.store(places_NB + 16, high_NB, mask=is_there_B)


SIGNATURES = {
    "5120 columns": Signature(
        kernel=unpack_kernel,
        arguments="codes:*u8 multipliers:*u8 tables:*i32 integers:*i8",
        constants={"WIDTH": 5120, "ROWS": 16, "BYTES": 256},
    )  # fmt: skip  # noqa: RUF028
}
"""What test_compiles watches."""
