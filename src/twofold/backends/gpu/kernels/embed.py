"""Rows of a four-bit table as numbers, in one launch: scale * (m * level), and a Refined table's residual on top."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.weights import Int4Weight, RefinedWeight, level_table

GROUPS = 32
"""Groups of a row that a program has."""


def embed(table: Int4Weight | RefinedWeight, tokens_T: Tensor) -> Tensor:
    """The named rows, float32 [T, D], exactly as weights.decode gives them; tokens_T int32."""
    halves = [table] if isinstance(table, Int4Weight) else [table.coarse, table.residual]
    columns, groups = table.shape[-1], halves[0].codes.shape[-2]
    x_TD = torch.empty(len(tokens_T), columns, device=tokens_T.device)
    if len(tokens_T):
        parts = [array for half in (halves[0], halves[-1]) for array in (half.codes, half.multipliers, half.scales)]
        launch(
            embed_kernel, (cdiv(groups, GROUPS), len(tokens_T)),
            tokens_T, level_table(tokens_T.device), *parts, x_TD, columns, groups,
            IS_REFINED=len(halves) == 2, GROUPS=GROUPS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return x_TD


@triton.jit
def embed_kernel(
    tokens_T, levels, codes, multipliers, scales, rest_codes, rest_multipliers, rest_scales, x, columns, groups,
    IS_REFINED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """tokens_T int32; levels int8 [16]; codes uint8 [V, G, 16], multipliers uint8 [V, G / 2], scales f32 [V]; x_TD."""
    token = tl.program_id(1).to(tl.int64)
    row = tl.load(tokens_T + token).to(tl.int64)
    group_G = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    low, high = decoded(levels, codes, multipliers, scales, row, group_G, groups)
    if IS_REFINED:
        rest_low, rest_high = decoded(levels, rest_codes, rest_multipliers, rest_scales, row, group_G, groups)
        low += rest_low
        high += rest_high
    column = group_G[:, None] * 32 + tl.arange(0, 16)[None, :]
    tl.store(x + token * columns + column, low, mask=column < columns)
    tl.store(x + token * columns + column + 16, high, mask=column + 16 < columns)


@triton.jit
def decoded(levels, codes, multipliers, scales, row, group_G, groups):
    """The first and the last sixteen columns of each group of a row, float32 [G, 16] each."""
    is_group_G = group_G < groups
    places = (row * groups + group_G)[:, None] * 16 + tl.arange(0, 16)[None, :]
    bytes_GB = tl.load(codes + places, mask=is_group_G[:, None], other=0)
    stored_G = tl.load(multipliers + row * (groups // 2) + group_G // 2, mask=is_group_G, other=0).to(tl.int32)
    stored_G = (stored_G >> (group_G % 2 * 4)) & 15
    m_G1 = (stored_G - 8 + (stored_G >> 3))[:, None]
    scale = tl.load(scales + row)
    low_GB = tl.load(levels + (bytes_GB & 15).to(tl.int32)).to(tl.int32) * m_G1
    high_GB = tl.load(levels + (bytes_GB >> 4).to(tl.int32)).to(tl.int32) * m_G1
    return low_GB.to(tl.float32) * scale, high_GB.to(tl.float32) * scale
