"""Attention of many rows of a sequence over a paged cache: prefill, whole or in chunks.

    o = sum_j softmax(q . k_j / sqrt(K)) v_j   over the visible positions j

A program takes a tile of consecutive rows of one sequence and one query head, and goes through the positions that any
of them sees in tiles that begin at multiples of BLOCK, keeping for each row the largest score so far, the sum of
2^(score - largest) and the sum of values weighted so. Tiles that all rows see in full come first and need no mask.
Since tiles of positions do not depend on where the tile of rows begins, neither do a row's bits.

With a bfloat16 or int8 cache, queries (of a bfloat16 one) and weights of values enter the products as bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.paging import (
    LOG2E,
    dot_dtype,
    first_of,
    is_plain,
    is_whole,
    load_rows,
    load_scales,
    quantize_rows,
    rows_of,
)
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target


@dataclass(frozen=True, kw_only=True)
class Config:
    """rows: rows of a tile; block: positions of a tile."""

    rows: int
    block: int
    warps: int
    stages: int


CONFIGS = (
    Config(rows=128, block=128, warps=8, stages=5),
    Config(rows=128, block=128, warps=8, stages=3),
    Config(rows=128, block=64, warps=8, stages=7),
    Config(rows=64, block=64, warps=4, stages=3),
)
"""What a measurement sweeps over. Half of the stages go to looking up blocks: of 5, 2 tiles are under way."""

INT8 = Config(rows=64, block=64, warps=4, stages=5)


def choose(dtype: torch.dtype, size: int) -> Config:
    """How a cache of this dtype is read, with heads of this size. AMD's CDNA3 has 64 KiB of shared memory."""
    if dtype == torch.float32:
        return Config(rows=32, block=32, warps=4, stages=3 if target() != "hip" else 2)
    if size > 128:
        return Config(rows=64, block=32, warps=4, stages=3 if target() != "hip" else 1)
    if target() == "hip":
        return Config(rows=128, block=64, warps=4, stages=1)
    return INT8 if dtype == torch.int8 else CONFIGS[0]


@triton.jit
def prepared(
    q_ptr, rows_M, inside_M, row_stride, scale, K: tl.constexpr, KP: tl.constexpr, kind: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Queries as an operand, a factor for each, and what scores are multiplied by to be in units of log 2.

    Bfloat16 goes as it is from memory to the tensor cores, which read it from shared memory then: the scale waits.
    """
    columns_K = tl.arange(0, KP)
    q_MK = tl.load(q_ptr + rows_M[:, None] * row_stride + columns_K[None, :],
                   mask=inside_M[:, None] & (columns_K < K)[None, :], other=0)  # fmt: skip
    factors_M = inside_M
    if kind == tl.int8:
        q_MK, scales_M = quantize_rows(q_MK.to(tl.float32) * scale)
        factors_M = scales_M * LOG2E
        scale = 1.0
    elif kind == tl.float32:
        q_MK = q_MK.to(tl.float32)
        scale = scale * LOG2E
    else:
        q_MK = q_MK.to(DOT)
        scale = scale * LOG2E
    return q_MK, factors_M, scale


@triton.jit
def scores_of(q_MK, factors_M, keys_NK, scales_N, kind: tl.constexpr, DOT: tl.constexpr):
    """Scores of all rows, [M, N]."""
    if kind == tl.int8:
        sums_MN = tl.dot(q_MK, tl.trans(keys_NK), out_dtype=tl.int32)
        scores_MN = sums_MN.to(tl.float32) * (factors_M[:, None] * scales_N[None, :])
    elif kind == tl.float32:
        scores_MN = tl.dot(q_MK, tl.trans(keys_NK), input_precision="ieee")
    else:
        scores_MN = tl.dot(q_MK, tl.trans(keys_NK.to(DOT)))
    return scores_MN


@triton.jit
def weighted(acc_MK, weights_MN, values_NK, scales_N, kind: tl.constexpr, DOT: tl.constexpr):
    """acc_MK with the weighted values added."""
    if kind == tl.float32:
        acc_MK = tl.dot(weights_MN, values_NK, acc_MK, input_precision="ieee")
    elif kind == tl.int8:
        acc_MK = tl.dot((weights_MN * scales_N[None, :]).to(DOT), values_NK.to(DOT), acc_MK)
    else:
        acc_MK = tl.dot(weights_MN.to(DOT), values_NK.to(DOT), acc_MK)
    return acc_MK


@triton.jit
def attend_tiles_of(
    state, queries, positions_M, firsts_M, cache, table_ptr, base, head, begin, end, KV_HEADS: tl.constexpr,
    K: tl.constexpr, KP: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    IS_WHOLE: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """State after positions begin..end: largest scores [M], sums of weights [M], sums of weighted values [M, KP]."""
    largest_M, sum_M, acc_MK = state
    q_MK, factors_M, scale = queries
    keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr = cache
    kind: tl.constexpr = keys_ptr.dtype.element_ty
    for start in tl.range(begin, end, BLOCK):
        positions_N = start + tl.arange(0, BLOCK)
        rows_N, is_there_N = rows_of(table_ptr, start - base, end - base, head, KV_HEADS, BLOCK_SIZE, BLOCK,
                                     IS_WHOLE, IS_MASKED)  # fmt: skip
        keys_NK = load_rows(keys_ptr, rows_N, is_there_N, K, KP, IS_MASKED)
        key_scales_N = load_scales(key_scales_ptr, rows_N, is_there_N, kind, IS_MASKED)
        value_scales_N = load_scales(value_scales_ptr, rows_N, is_there_N, kind, IS_MASKED)
        scores_MN = scores_of(q_MK, factors_M, keys_NK, key_scales_N, kind, DOT)
        if IS_MASKED:
            is_seen_MN = (positions_N[None, :] >= firsts_M[:, None]) & (positions_N[None, :] <= positions_M[:, None])
            scores_MN = tl.where(is_seen_MN, scores_MN, float("-inf"))
        largest_new_M = tl.maximum(largest_M, tl.max(scores_MN, axis=1))
        # a row that has seen nothing yet: 0 stands in for its largest score, so that no infinities are subtracted
        top_M = tl.where(largest_new_M == float("-inf"), 0.0, largest_new_M) if IS_MASKED else largest_new_M
        scaled_top_M = top_M * scale
        shrink_M = tl.exp2(tl.fma(largest_M, scale, -scaled_top_M))
        weights_MN = tl.exp2(tl.fma(scores_MN, scale, -scaled_top_M[:, None]))
        sum_M = sum_M * shrink_M + tl.sum(weights_MN, axis=1)
        acc_MK = acc_MK * shrink_M[:, None]
        values_NK = load_rows(values_ptr, rows_N, is_there_N, K, KP, IS_MASKED)
        acc_MK = weighted(acc_MK, weights_MN, values_NK, value_scales_N, kind, DOT)
        largest_M = largest_new_M
    return largest_M, sum_M, acc_MK


@triton.jit
def attend_many_kernel(
    q_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, positions_ptr, starts_ptr, blocks_ptr, bases_ptr,
    o_ptr, table_width, chunk, heads, least, scale, KV_HEADS: tl.constexpr,
    K: tl.constexpr, KP: tl.constexpr, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr, IS_WHOLE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """q_THK, o_THK float32; a program has one head (axis 0), a tile of rows (axis 1, the last first) of a sequence."""
    release(EARLY)
    wait(EARLY)
    head = tl.program_id(0)
    sequence = tl.program_id(2).to(tl.int64)
    start = tl.load(starts_ptr + sequence)
    count = tl.load(starts_ptr + sequence + 1) - start
    # the last tiles see most, so they begin first and the short ones fill the gaps at the end
    tile = (tl.num_programs(1) - 1 - tl.program_id(1)) * ROWS
    if (tile >= count) | (count < least):
        return
    lanes_M = tl.arange(0, ROWS)
    inside_M = tile + lanes_M < count
    low = tl.load(positions_ptr + start) + tile
    high = low + tl.minimum(ROWS, count - tile) - 1
    positions_M = low + lanes_M
    first, last_first = first_of(low, chunk), first_of(high, chunk)
    rows_M = (start + tile).to(tl.int64) + lanes_M
    row_stride = heads * K
    kind: tl.constexpr = keys_ptr.dtype.element_ty
    queries = prepared(q_ptr + head * K, rows_M, inside_M, row_stride, scale, K, KP, kind, DOT)
    begin = first // BLOCK * BLOCK
    # rows of one chunk that begins with a tile of positions see whole tiles up to the first row's position
    in_full = tl.where((first == last_first) & (first == begin), (low + 1) // BLOCK * BLOCK, begin)
    state = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS, KP), tl.float32)
    cache = keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr
    kv_head = head // (heads // KV_HEADS)
    table_ptr = blocks_ptr + sequence * table_width
    base = tl.load(bases_ptr + sequence)
    firsts_M = first_of(positions_M, chunk)
    state = attend_tiles_of(state, queries, positions_M, firsts_M, cache, table_ptr, base, kv_head, begin, in_full,
                            KV_HEADS, K, KP, BLOCK_SIZE, BLOCK, DOT, IS_WHOLE, False)  # fmt: skip
    state = attend_tiles_of(state, queries, positions_M, firsts_M, cache, table_ptr, base, kv_head, in_full, high + 1,
                            KV_HEADS, K, KP, BLOCK_SIZE, BLOCK, DOT, IS_WHOLE, True)  # fmt: skip
    _, sum_M, acc_MK = state
    sum_M = tl.where(inside_M, sum_M, 1.0)  # a row beyond the last may have seen nothing
    columns_K = tl.arange(0, KP)
    tl.store(o_ptr + head * K + rows_M[:, None] * row_stride + columns_K[None, :], acc_MK / sum_M[:, None],
             mask=inside_M[:, None] & (columns_K < K)[None, :])  # fmt: skip


def attend_tiles(
    q_THK: Tensor, cache: GpuCache, positions_T: Tensor, starts_S: Tensor, blocks_SB: Tensor, bases_S: Tensor,
    chunk: int | None, longest: int, least: int = 1, config: Config | None = None,
    o_TD: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """o_TD float32, heads side by side. Keys and values of the rows are in the cache already.

    q_THK float32, better bfloat16 where the cache is; positions_T int32, consecutive in each sequence; starts_S int32
    [S + 1], the first row of each sequence; blocks_SB and bases_S int32 as in ops.types.Pages. chunk: of a local layer,
    None or 0 where the whole context is visible. longest: no sequence has more rows. least: sequences with fewer rows
    are left alone. The result is written into o_TD, where it is given.
    """
    tokens, heads, size = q_THK.shape
    if o_TD is None:
        o_TD = torch.empty(tokens, heads * size, dtype=torch.float32, device=q_THK.device)
    if tokens == 0:
        return o_TD
    config = config or choose(cache.keys.dtype, size)
    if cache.keys.dtype == torch.bfloat16 and not is_plain():
        q_THK = q_THK.to(torch.bfloat16)
    kv_heads, block_size = cache.keys.shape[1:3]
    launch(
        attend_many_kernel, (heads, cdiv(longest, config.rows), len(starts_S) - 1),
        q_THK, cache.keys, cache.values, cache.key_scales, cache.value_scales, positions_T, starts_S,
        blocks_SB, bases_S, o_TD, blocks_SB.shape[1], chunk or 0, heads, least, size**-0.5, KV_HEADS=kv_heads,
        K=size, KP=max(32, power_from(size)), BLOCK_SIZE=block_size, ROWS=config.rows,
        BLOCK=config.block, DOT=dot_dtype(), IS_WHOLE=is_whole(config.block, block_size, chunk or 0),
        num_warps=config.warps, num_stages=config.stages, **options(q_THK.device),
    )  # fmt: skip
    return o_TD


def signature(q: str, kind: str, config: Config) -> Signature:
    """A prompt of Scout."""
    constants = {
        "KV_HEADS": 8, "K": 128, "KP": 128, "BLOCK_SIZE": 32, "ROWS": config.rows, "BLOCK": config.block,
        "DOT": tl.bfloat16, "IS_WHOLE": True, "EARLY": False,
    }  # fmt: skip
    return Signature(
        kernel=attend_many_kernel,
        arguments=f"q_ptr:{q} keys_ptr:{kind} values_ptr:{kind} key_scales_ptr:*fp32 value_scales_ptr:*fp32"
        " positions_ptr:*i32 starts_ptr:*i32 blocks_ptr:*i32 bases_ptr:*i32 o_ptr:*fp32 table_width:i32:16"
        " chunk:i32:16 heads:i32 least:i32:16 scale:fp32",
        constants=constants, warps=config.warps, stages=config.stages,
    )  # fmt: skip


SIGNATURES = {
    "bf16": signature("*bf16", "*bf16", CONFIGS[0]),
    "int8": signature("*fp32", "*i8", INT8),
}
"""What test_compiles watches."""
