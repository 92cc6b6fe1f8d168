"""Attention of single rows over a paged cache: decode, and steps of a few tokens.

    o = sum_j softmax(q . k_j / sqrt(K)) v_j   over the visible positions j of the row's sequence

A row's visible positions are cut into at most SPLITS parts of one length, which depends on the row alone, so its bits
do not depend on the batch. A program takes one KV head with all of its query heads, and every so many parts of one
row: each part gives the largest score, the sum of 2^(score - largest) and the sum of values weighted so. The program
that is the last of its row to be done merges the parts in their order; a counter says which one it is.

Products are taken by tensor cores. With a bfloat16 or int8 cache the float operand (queries, weights of values) enters
as two bfloat16 numbers, 16 bits together: a handful of query heads leaves most of a tile empty anyway, so that these
two products take no longer than reading the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.kernels.paging import (
    LOG2E,
    dot_dtype,
    first_of,
    load_rows,
    load_scales,
    quantize_rows,
    rows_of,
    split_float,
)

LEAST_HEADS = 16
"""Rows of the smallest tile that tensor cores take."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """unit: least positions of a part; splits: most parts of a row, a power of two; block: positions of a tile.

    programs: about how many are wanted; with enough rows a program takes several parts of its row.
    """

    unit: int
    splits: int
    block: int
    warps: int
    stages: int
    programs: int = 1024


CONFIGS = (
    Config(unit=128, splits=32, block=64, warps=4, stages=5),
    Config(unit=256, splits=32, block=64, warps=4, stages=7),
    Config(unit=128, splits=32, block=32, warps=4, stages=7),
    Config(unit=128, splits=32, block=128, warps=4, stages=5),
    Config(unit=128, splits=64, block=32, warps=2, stages=7),
)
"""What a measurement sweeps over. Half of the stages go to looking up blocks: of 5, 2 tiles are under way."""


def choose(dtype: torch.dtype) -> Config:
    """How a cache of this dtype is read."""
    if dtype == torch.float32:
        return Config(unit=128, splits=32, block=32, warps=4, stages=3)
    return CONFIGS[0]


@triton.jit
def prepared(q_ptr, places, scale, kind: tl.constexpr, DOT: tl.constexpr):
    """Queries as operands: two parts and a factor for each head. Scores come out in units of log 2."""
    _, _, places_HK, inside_HK = places
    q_HK = tl.load(q_ptr + places_HK, mask=inside_HK, other=0) * scale
    factors_H = scale
    if kind == tl.int8:
        high_HK, factors_H = quantize_rows(q_HK)
        low_HK = high_HK
        factors_H *= LOG2E
    elif kind == tl.float32:
        high_HK = q_HK * LOG2E
        low_HK = high_HK
    else:
        high_HK, low_HK = split_float(q_HK * LOG2E, DOT)
    return high_HK, low_HK, factors_H


@triton.jit
def scores_of(high_HK, low_HK, factors_H, keys_NK, key_scales_N, kind: tl.constexpr, DOT: tl.constexpr):
    """Scores of all heads, [H, N]."""
    if kind == tl.int8:
        sums_HN = tl.dot(high_HK, tl.trans(keys_NK), out_dtype=tl.int32)
        scores_HN = sums_HN.to(tl.float32) * (factors_H[:, None] * key_scales_N[None, :])
    elif kind == tl.float32:
        scores_HN = tl.dot(high_HK, tl.trans(keys_NK), input_precision="ieee")
    else:
        keys_KN = tl.trans(keys_NK.to(DOT))
        scores_HN = tl.dot(low_HK, keys_KN, tl.dot(high_HK, keys_KN))
    return scores_HN


@triton.jit
def weighted(acc_HK, weights_HN, values_NK, value_scales_N, kind: tl.constexpr, DOT: tl.constexpr):
    """acc_HK with the weighted values added."""
    if kind == tl.float32:
        acc_HK = tl.dot(weights_HN, values_NK, acc_HK, input_precision="ieee")
    else:
        if kind == tl.int8:
            weights_HN = weights_HN * value_scales_N[None, :]
        high_HN, low_HN = split_float(weights_HN, DOT)
        values_NK = values_NK.to(DOT)
        acc_HK = tl.dot(low_HN, values_NK, tl.dot(high_HN, values_NK, acc_HK))
    return acc_HK


@triton.jit
def attend_part(
    operands, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, table_ptr, base, head, kv_heads, begin, end,
    K: tl.constexpr, KP: tl.constexpr, H: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Positions begin..end: largest scores [H], sums of weights [H], weighted sums of values [H, KP]."""
    high_HK, low_HK, factors_H = operands
    kind: tl.constexpr = keys_ptr.dtype.element_ty
    largest_H = tl.full((H,), float("-inf"), tl.float32)
    sums_HN = tl.zeros((H, BLOCK), tl.float32)
    acc_HK = tl.zeros((H, KP), tl.float32)
    for start in tl.range(begin, end, BLOCK):
        positions_N = start + tl.arange(0, BLOCK)
        is_there_N = positions_N < end
        rows_N = rows_of(table_ptr, positions_N - base, is_there_N, head, kv_heads, BLOCK_SIZE, True)
        keys_NK = load_rows(keys_ptr, rows_N, is_there_N, K, KP, True)
        values_NK = load_rows(values_ptr, rows_N, is_there_N, K, KP, True)
        key_scales_N = load_scales(key_scales_ptr, rows_N, is_there_N, kind, True)
        value_scales_N = load_scales(value_scales_ptr, rows_N, is_there_N, kind, True)
        scores_HN = scores_of(high_HK, low_HK, factors_H, keys_NK, key_scales_N, kind, DOT)
        scores_HN = tl.where(is_there_N[None, :], scores_HN, float("-inf"))
        largest_new_H = tl.maximum(largest_H, tl.max(scores_HN, axis=1))
        shrink_H = tl.exp2(largest_H - largest_new_H)
        weights_HN = tl.exp2(scores_HN - largest_new_H[:, None])
        sums_HN = sums_HN * shrink_H[:, None] + weights_HN
        acc_HK = weighted(acc_HK * shrink_H[:, None], weights_HN, values_NK, value_scales_N, kind, DOT)
        largest_H = largest_new_H
    return largest_H, tl.sum(sums_HN, axis=1), acc_HK


@triton.jit
def join(top_H, sum_H, acc_HK, part_of):
    """Two results over different positions as one. Fused by hand, so that every caller gets the same bits."""
    own_top_H, own_sum_H, own_HK = part_of
    highest_H = tl.maximum(top_H, own_top_H)
    share_H, own_share_H = tl.exp2(top_H - highest_H), tl.exp2(own_top_H - highest_H)
    sum_H = tl.fma(own_sum_H, own_share_H, sum_H * share_H)
    acc_HK = tl.fma(own_HK, tl.broadcast_to(own_share_H[:, None], own_HK.shape), acc_HK * share_H[:, None])
    return highest_H, sum_H, acc_HK


@triton.jit
def nothing(H: tl.constexpr, KP: tl.constexpr):
    """The result over no positions: what `join` starts from."""
    return tl.full((H,), float("-inf"), tl.float32), tl.zeros((H,), tl.float32), tl.zeros((H, KP), tl.float32)


@triton.jit
def keep_part(room, part, part_of, places, HEADS: tl.constexpr, K: tl.constexpr):
    """Write a part's result where `merge` looks for it."""
    partial_ptr, sums_ptr = room
    lanes_H, inside_H, places_HK, inside_HK = places
    top_H, sum_H, acc_HK = part_of
    tl.store(sums_ptr + part * (2 * HEADS) + lanes_H, top_H, mask=inside_H)
    tl.store(sums_ptr + part * (2 * HEADS) + HEADS + lanes_H, sum_H, mask=inside_H)
    tl.store(partial_ptr + part * (HEADS * K) + places_HK, acc_HK, mask=inside_HK)


@triton.jit
def merge(room, parts, places, H: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, K: tl.constexpr):
    """The outputs of one row and KV head: its parts, joined in their order."""
    partial_ptr, sums_ptr = room
    lanes_H, inside_H, places_HK, inside_HK = places
    top_H, sum_H, acc_HK = nothing(H, KP)
    for part in tl.range(0, parts, loop_unroll_factor=4):
        own_ptr = sums_ptr + part * (2 * HEADS) + lanes_H
        own_top_H = tl.load(own_ptr, mask=inside_H, other=0, cache_modifier=".cg")
        own_sum_H = tl.load(own_ptr + HEADS, mask=inside_H, other=1, cache_modifier=".cg")
        own_HK = tl.load(partial_ptr + part * (HEADS * K) + places_HK, mask=inside_HK, other=0, cache_modifier=".cg")
        top_H, sum_H, acc_HK = join(top_H, sum_H, acc_HK, (own_top_H, own_sum_H, own_HK))
    return acc_HK / sum_H[:, None]


@triton.jit
def merge_if_last(
    room, counter_ptr, o_ptr, parts, places, H: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, K: tl.constexpr
):
    """The program that finds all others of its row done writes the row's output and sets the counter back."""
    tl.debug_barrier()  # all threads have written before one of them says so
    done = tl.atomic_add(counter_ptr, 1, sem="acq_rel")
    if done == tl.minimum(parts, tl.num_programs(0)) - 1:
        _, _, places_HK, inside_HK = places
        tl.store(o_ptr + places_HK, merge(room, parts, places, H, KP, HEADS, K), mask=inside_HK)
        tl.store(counter_ptr, 0)


@triton.jit
def attend_few_kernel(
    q_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, positions_ptr, sequence_ptr, blocks_ptr, bases_ptr,
    partial_ptr, sums_ptr, counters_ptr, o_ptr, table_width, chunk, kv_heads, scale,
    K: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    UNIT: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, IS_ALONE: tl.constexpr,
):  # fmt: skip
    """q_THK and o_THK float32; a program has every so many parts of a row (axis 2) and KV head (axis 1).

    partial float32 [T, G, SPLITS, HEADS, K], sums float32 [T, G, SPLITS, 2, HEADS] (largest scores, sums of weights),
    counters int32 [T, G], zero. HEADS query heads read a KV head, H of a tile; chunk 0: the whole context is visible.
    IS_ALONE: there is one program for each row and KV head, which joins the parts itself.
    """
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    position = tl.load(positions_ptr + row)
    first = first_of(position, chunk)
    length = tl.cdiv(position + 1 - first, UNIT * SPLITS) * UNIT
    parts = tl.cdiv(position + 1 - first, length)
    if tl.program_id(0) >= parts:
        return
    sequence = tl.load(sequence_ptr + row).to(tl.int64)
    table_ptr = blocks_ptr + sequence * table_width
    base = tl.load(bases_ptr + sequence)
    pair = row * kv_heads + head
    o_ptr += pair * (HEADS * K)
    lanes_H, columns_K = tl.arange(0, H), tl.arange(0, KP)
    inside_HK = (lanes_H < HEADS)[:, None] & (columns_K < K)[None, :]
    places = lanes_H, lanes_H < HEADS, lanes_H[:, None] * K + columns_K[None, :], inside_HK
    room = partial_ptr + pair * (SPLITS * HEADS * K), sums_ptr + pair * (SPLITS * 2 * HEADS)
    operands = prepared(q_ptr + pair * (HEADS * K), places, scale, keys_ptr.dtype.element_ty, DOT)
    top_H, sum_H, acc_HK = nothing(H, KP)
    for part in range(tl.program_id(0), parts, tl.num_programs(0)):
        begin = first + part * length
        part_of = attend_part(
            operands, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, table_ptr, base, head, kv_heads, begin,
            tl.minimum(begin + length, position + 1), K, KP, H, BLOCK_SIZE, BLOCK, DOT)  # fmt: skip
        if IS_ALONE:
            top_H, sum_H, acc_HK = join(top_H, sum_H, acc_HK, part_of)
        elif parts == 1:
            tl.store(o_ptr + places[2], part_of[2] / part_of[1][:, None], mask=inside_HK)
        else:
            keep_part(room, part, part_of, places, HEADS, K)
    if IS_ALONE:
        tl.store(o_ptr + places[2], acc_HK / sum_H[:, None], mask=inside_HK)
    elif parts > 1:
        merge_if_last(room, counters_ptr + pair, o_ptr, parts, places, H, KP, HEADS, K)


def attend_rows(
    q_THK: Tensor, cache: GpuCache, positions_T: Tensor, sequence_T: Tensor, blocks_SB: Tensor, bases_S: Tensor,
    chunk: int | None, config: Config | None = None,
) -> Tensor:  # fmt: skip
    """o_TD float32, heads side by side, every row by itself.

    q_THK float32; positions_T, sequence_T, blocks_SB and bases_S int32: position and sequence of a row, tables as in
    ops.types.Pages. chunk: of a local layer, None or 0 where the whole context is visible. Keys and values of the
    rows are in the cache already.
    """
    tokens, heads, size = q_THK.shape
    o_TD = torch.empty(tokens, heads * size, dtype=torch.float32, device=q_THK.device)
    if tokens == 0:
        return o_TD
    config = config or choose(cache.keys.dtype)
    kv_heads, block_size = cache.keys.shape[1:3]
    longest = min(blocks_SB.shape[1] * block_size, chunk or 1 << 31)
    most = min(config.splits, triton.cdiv(longest, config.unit))
    programs = min(most, triton.cdiv(config.programs, tokens * kv_heads))
    splits = config.splits if programs > 1 else 0
    room = torch.empty(tokens * heads * splits * (size + 2), dtype=torch.float32, device=q_THK.device)
    counters = cache.counters
    if tokens * kv_heads > len(counters):
        counters = torch.zeros(tokens * kv_heads, dtype=torch.int32, device=q_THK.device)
    attend_few_kernel[(programs, kv_heads, tokens)](
        q_THK, cache.keys, cache.values, cache.key_scales, cache.value_scales, positions_T, sequence_T,
        blocks_SB, bases_S, room, room[tokens * heads * splits * size :], counters, o_TD,
        blocks_SB.shape[1], chunk or 0, kv_heads, size**-0.5,
        K=size, KP=max(32, triton.next_power_of_2(size)), HEADS=heads // kv_heads,
        H=max(LEAST_HEADS, triton.next_power_of_2(heads // kv_heads)), BLOCK_SIZE=block_size, UNIT=config.unit,
        SPLITS=config.splits, BLOCK=config.block, DOT=dot_dtype(), IS_ALONE=programs == 1,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return o_TD
