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
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.paging import (
    LOG2E,
    dot_dtype,
    first_of,
    is_whole,
    load_rows,
    load_scales,
    quantize_rows,
    rows_of,
    split_float,
)
from twofold.backends.gpu.kernels.parts import is_last, join, keep_part, merge, nothing, places_of
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target

LEAST_HEADS = 16
"""Rows of the smallest tile that tensor cores take."""

MERGE_ITEMS = 4096
"""Elements of parts that a warp reads at once when it merges: 128 of its registers."""


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
    Config(unit=256, splits=32, block=64, warps=4, stages=7),
    Config(unit=128, splits=32, block=64, warps=4, stages=5),
    Config(unit=128, splits=32, block=32, warps=4, stages=7),
    Config(unit=256, splits=32, block=64, warps=8, stages=7),
    Config(unit=256, splits=64, block=64, warps=4, stages=5),
)
"""What a measurement sweeps over. Half of the stages go to looking up blocks: of 5, 2 tiles are under way."""


def choose(dtype: torch.dtype) -> Config:
    """How a cache of this dtype is read."""
    if dtype == torch.float32:
        return Config(unit=128, splits=32, block=32, warps=4, stages=3)
    return CONFIGS[0]


@triton.jit
def prepared(q_HK, scale, kind: tl.constexpr, DOT: tl.constexpr):
    """Queries as operands: two parts and a factor for each head. Scores come out in units of log 2."""
    q_HK *= scale
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
    operands, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, table_ptr, base, head, begin, end,
    KV_HEADS: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, H: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr, DOT: tl.constexpr, IS_WHOLE: tl.constexpr,
):  # fmt: skip
    """Positions begin..end: largest scores [H], sums of weights [H], weighted sums of values [H, KP]."""
    high_HK, low_HK, factors_H = operands
    kind: tl.constexpr = keys_ptr.dtype.element_ty
    largest_H = tl.full((H,), float("-inf"), tl.float32)
    sums_HN = tl.zeros((H, BLOCK), tl.float32)
    acc_HK = tl.zeros((H, KP), tl.float32)
    for start in tl.range(begin, end, BLOCK):
        rows_N, is_there_N = rows_of(table_ptr, start - base, end - base, head, KV_HEADS, BLOCK_SIZE, BLOCK,
                                     IS_WHOLE, True)  # fmt: skip
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
def row_of(starts_ptr, longest, IS_DECODE: tl.constexpr):
    """The sequence and the row of a program, and whether there is one: sequences with more rows are not for us."""
    index = tl.program_id(2)
    sequence = index
    row = index
    is_there = True
    if not IS_DECODE:
        sequence = index // longest
        start = tl.load(starts_ptr + sequence)
        count = tl.load(starts_ptr + sequence + 1) - start
        row = start + index % longest
        is_there = (count <= longest) & (index % longest < count)
    return sequence.to(tl.int64), row.to(tl.int64), is_there


@triton.jit
def extent(position, chunk, UNIT: tl.constexpr, SPLITS: tl.constexpr):
    """The first visible position of a row, the length of its parts and their number; a row that is not there has 0."""
    first = first_of(position, chunk)
    length = tl.cdiv(position + 1 - first, UNIT * SPLITS) * UNIT
    return first, length, tl.cdiv(position + 1 - first, tl.maximum(length, 1))


@triton.jit(do_not_specialize=["longest"])
def attend_few_kernel(
    q_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, positions_ptr, starts_ptr, blocks_ptr, bases_ptr,
    partial_ptr, sums_ptr, counters_ptr, o_ptr, table_width, chunk, scale, longest, KV_HEADS: tl.constexpr,
    K: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, SHARED: tl.constexpr, H: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, UNIT: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, BURST: tl.constexpr,
    DOT: tl.constexpr, IS_WHOLE: tl.constexpr, IS_DECODE: tl.constexpr, IS_ALONE: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """q_THK and o_THK float32; a program has every so many parts of a row (axis 2) and KV head (axis 1).

    partial float32 [S, longest, G, SPLITS, HEADS, K], sums float32 [.., SPLITS, 2, HEADS] (largest scores, sums of
    weights), counters int32 [S, longest, G], zero. HEADS query heads read a KV head: SHARED, a power of two, when parts
    are merged, H of a tile of scores. chunk 0: the whole context is visible. IS_DECODE: row s is the only one of
    sequence s. IS_ALONE: there is one program for each row and KV head, which joins the parts itself.
    """
    head = tl.program_id(1)
    sequence, row, is_there = row_of(starts_ptr, longest, IS_DECODE)
    lanes_H, inside_H, places_HK, inside_HK = places_of(H, KP, HEADS, K)
    offset = (row * KV_HEADS + head) * (HEADS * K)
    # positions and tables are uploaded before a step's first kernel, so nobody in front still writes them
    base = tl.load(bases_ptr + sequence)
    position = tl.load(positions_ptr + row, mask=is_there, other=-1)
    first, length, parts = extent(position, chunk, UNIT, SPLITS)
    release(EARLY)
    wait(EARLY)
    mine, step = (0, 1) if IS_ALONE else (tl.program_id(0), tl.num_programs(0))
    if mine >= parts:
        return
    q_HK = tl.load(q_ptr + offset + places_HK, mask=inside_HK, other=0)
    table_ptr = blocks_ptr + sequence * table_width
    pair = tl.program_id(2).to(tl.int64) * KV_HEADS + head
    o_ptr += offset
    room = partial_ptr + pair * (SPLITS * HEADS * K), sums_ptr + pair * (SPLITS * 2 * HEADS)
    operands = prepared(q_HK, scale, keys_ptr.dtype.element_ty, DOT)
    top_H, sum_H, acc_HK = nothing(H, KP)
    for part in range(mine, parts, step):
        begin = first + part * length
        part_of = attend_part(
            operands, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, table_ptr, base, head, begin,
            tl.minimum(begin + length, position + 1), KV_HEADS, K, KP, H, BLOCK_SIZE, BLOCK, DOT, IS_WHOLE)  # fmt: skip
        if IS_ALONE:
            top_H, sum_H, acc_HK = join(top_H, sum_H, acc_HK, part_of)
        elif parts == 1:
            tl.store(o_ptr + places_HK, part_of[2] / part_of[1][:, None], mask=inside_HK)
        else:
            keep_part(room, part, part_of, (lanes_H, inside_H, places_HK, inside_HK), HEADS, K)
    if IS_ALONE:
        tl.store(o_ptr + places_HK, acc_HK / sum_H[:, None], mask=inside_HK)
    elif is_last(counters_ptr + pair, parts, tl.minimum(parts, step)):
        merge(room, parts, o_ptr, SHARED, KP, HEADS, K, BURST)


def attend_rows(
    q_THK: Tensor, cache: GpuCache, positions_T: Tensor, starts_S: Tensor, blocks_SB: Tensor, bases_S: Tensor,
    chunk: int | None, longest: int, config: Config | None = None, o_TD: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """o_TD float32, heads side by side, every row by itself.

    q_THK float32; positions_T, starts_S [S + 1], blocks_SB and bases_S int32: positions, first rows of sequences and
    tables as in ops.types. chunk: of a local layer, None or 0 where the whole context is visible. longest: sequences
    with more rows than this are left alone. Keys and values of the rows are in the cache already. The result is
    written into o_TD, where it is given.
    """
    tokens, heads, size = q_THK.shape
    if o_TD is None:
        o_TD = torch.empty(tokens, heads * size, dtype=torch.float32, device=q_THK.device)
    if tokens == 0:
        return o_TD
    config = config or choose(cache.keys.dtype)
    kv_heads, block_size = cache.keys.shape[1:3]
    rows, shared = (len(starts_S) - 1) * longest, heads // kv_heads
    visible = min(blocks_SB.shape[1] * block_size, chunk or 1 << 31)
    programs = min(config.splits, cdiv(visible, config.unit), cdiv(config.programs, rows * kv_heads))
    splits = config.splits if programs > 1 else 0
    room = torch.empty(rows * heads * splits * (size + 2), dtype=torch.float32, device=q_THK.device)
    counters = cache.counters
    if rows * kv_heads > len(counters):
        counters = torch.zeros(rows * kv_heads, dtype=torch.int32, device=q_THK.device)
    padded, shared_padded = max(32, power_from(size)), power_from(shared)
    burst = min(config.splits, max(1, MERGE_ITEMS * config.warps // (shared_padded * padded)))
    whole = config.unit % block_size == 0 and is_whole(config.block, block_size, chunk or 0)
    launch(
        attend_few_kernel, (programs, kv_heads, rows),
        q_THK, cache.keys, cache.values, cache.key_scales, cache.value_scales, positions_T, starts_S,
        blocks_SB, bases_S, room, room[rows * heads * splits * size :], counters, o_TD,
        blocks_SB.shape[1], chunk or 0, size**-0.5, longest, KV_HEADS=kv_heads,
        K=size, KP=padded, HEADS=shared, SHARED=shared_padded, H=max(LEAST_HEADS, shared_padded),
        BLOCK_SIZE=block_size, UNIT=config.unit, SPLITS=config.splits, BLOCK=config.block, BURST=burst,
        DOT=dot_dtype(), IS_WHOLE=whole, IS_DECODE=longest == 1 and rows == tokens, IS_ALONE=programs == 1,
        num_warps=config.warps, num_stages=config.stages if target() != "hip" else 2, **options(q_THK.device),
    )  # fmt: skip
    return o_TD


def signature(kind: str, config: Config, is_alone: bool = False) -> Signature:
    """Decoding with Scout's heads."""
    constants = {
        "KV_HEADS": 8, "K": 128, "KP": 128, "HEADS": 5, "SHARED": 8, "H": 16, "BLOCK_SIZE": 32, "UNIT": config.unit,
        "SPLITS": config.splits, "BLOCK": config.block, "BURST": 16, "DOT": tl.bfloat16, "IS_WHOLE": True,
        "IS_DECODE": True, "IS_ALONE": is_alone, "EARLY": False,
    }  # fmt: skip
    return Signature(
        kernel=attend_few_kernel,
        arguments=f"q_ptr:*fp32 keys_ptr:{kind} values_ptr:{kind} key_scales_ptr:*fp32 value_scales_ptr:*fp32"
        " positions_ptr:*i32 starts_ptr:*i32 blocks_ptr:*i32 bases_ptr:*i32 partial_ptr:*fp32 sums_ptr:*fp32"
        " counters_ptr:*i32 o_ptr:*fp32 table_width:i32:16 chunk:i32:16 scale:fp32 longest:i32",
        constants=constants, warps=config.warps, stages=config.stages,
    )  # fmt: skip


SIGNATURES = {
    "bf16": signature("*bf16", choose(torch.bfloat16)),
    "int8": signature("*i8", choose(torch.int8)),
}
"""What test_compiles watches."""
