"""What the kernels of attention share: where a position lies in a paged cache, and rows of it as operands of products.

A row is one position of one KV head: row (block * G + head) * block size + offset of keys and values, and the same
element of their scales. A cache may have more than 2^31 elements, so offsets are int64; it has fewer rows than that,
which are int32: tables are looked up and rows counted in the innermost loops.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

ROUNDER = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding and taking it away again rounds a float32 below 2^22 to the nearest integer, half to even."""

HIGH_HALF = tl.constexpr(-65536)
"""0xffff0000: the bits of a float32 that a bfloat16 keeps."""

LOG2E = tl.constexpr(1.4426950408889634)
"""Scores are kept in units of log 2: 2^x is what the hardware knows."""


@triton.jit
def first_of(position, chunk):
    """The first position that a row sees; chunk 0: everything."""
    return tl.where(chunk > 0, position // tl.maximum(chunk, 1) * chunk, 0)


@triton.jit
def rows_of(
    table_ptr, start, stop, head, KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr,
    IS_WHOLE: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """The rows of BLOCK slots of a table from `start` on, int32, and whether each lies in 0..stop.

    IS_WHOLE: `start` is the first slot of a block and a tile consists of whole ones, so that a block is looked up once
    and not for each of its slots. When masked, slots that are not there are not looked up.
    """
    slots_N = start + tl.arange(0, BLOCK)
    is_there_N = (slots_N >= 0) & (slots_N < stop)
    if IS_WHOLE:
        firsts_B = start + tl.arange(0, BLOCK // BLOCK_SIZE) * BLOCK_SIZE
        if IS_MASKED:
            blocks_B = tl.load(table_ptr + firsts_B // BLOCK_SIZE, mask=(firsts_B >= 0) & (firsts_B < stop), other=0)
        else:
            blocks_B = tl.load(table_ptr + firsts_B // BLOCK_SIZE)
        offsets_B1 = (blocks_B * KV_HEADS + head)[:, None] * BLOCK_SIZE
        rows_N = tl.reshape(offsets_B1 + tl.arange(0, BLOCK_SIZE)[None, :], (BLOCK,))
    else:
        if IS_MASKED:
            blocks_N = tl.load(table_ptr + slots_N // BLOCK_SIZE, mask=is_there_N, other=0)
        else:
            blocks_N = tl.load(table_ptr + slots_N // BLOCK_SIZE)
        rows_N = (blocks_N * KV_HEADS + head) * BLOCK_SIZE + slots_N % BLOCK_SIZE
    return rows_N, is_there_N


@triton.jit
def load_rows(items_ptr, rows_N, mask_N, K: tl.constexpr, KP: tl.constexpr, IS_MASKED: tl.constexpr):
    """Keys or values of these rows, [N, KP]: zero behind K, and, when masked, outside the mask.

    What is outside may be anything that was left in the block, NaN too, so it is never read into a product.
    """
    columns_K = tl.arange(0, KP)
    pointers_NK = items_ptr + (rows_N.to(tl.int64) * K)[:, None] + columns_K[None, :]
    if IS_MASKED:
        items_NK = tl.load(pointers_NK, mask=mask_N[:, None] & (columns_K < K)[None, :], other=0)
    elif K == KP:
        items_NK = tl.load(pointers_NK)
    else:
        items_NK = tl.load(pointers_NK, mask=(columns_K < K)[None, :], other=0)
    return items_NK


@triton.jit
def load_scales(scales_ptr, rows_N, mask_N, kind: tl.constexpr, IS_MASKED: tl.constexpr):
    """Scales of these rows of an int8 cache, [N]; of others something that nobody looks at."""
    scales_N = mask_N
    if kind == tl.int8:
        if IS_MASKED:
            scales_N = tl.load(scales_ptr + rows_N, mask=mask_N, other=0)
        else:
            scales_N = tl.load(scales_ptr + rows_N)
    return scales_N


@triton.jit
def largest(x_NK):
    """The largest magnitude of each row as the bits of a float32: as integers they keep their order, NaN on top."""
    return tl.max(x_NK.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def scales_of(largest_N):
    """Scales and their inverses (0 for 0) of rows with these largest magnitudes; a NaN makes the scale NaN."""
    scales_N = tl.div_rn(largest_N.to(tl.float32, bitcast=True), 127.0)
    is_positive_N = scales_N > 0
    inverse_N = tl.where(is_positive_N, tl.div_rn(1.0, tl.where(is_positive_N, scales_N, 1.0)), 0.0)
    return scales_N, inverse_N


@triton.jit
def codes_of(x_NK, inverse_N):
    """Int8 codes of rows, as ops.packed.quantize_int8 makes them."""
    units_NK = x_NK * inverse_N[:, None]
    rounded_NK = (tl.where(units_NK == units_NK, units_NK, 0.0) + ROUNDER) - ROUNDER
    return tl.minimum(tl.maximum(rounded_NK, -127.0), 127.0).to(tl.int8)


@triton.jit
def quantize_rows(x_NK):
    """Int8 codes and one scale for each row."""
    scales_N, inverse_N = scales_of(largest(x_NK))
    return codes_of(x_NK, inverse_N), scales_N


@triton.jit
def split_float(x, DOT: tl.constexpr):
    """x as a sum of two: what a bfloat16 holds of it, cut off, and the rest, 16 bits together.

    DOT: bfloat16, or float32 where the interpreter multiplies.
    """
    high = (x.to(tl.int32, bitcast=True) & HIGH_HALF).to(tl.float32, bitcast=True)
    return high.to(DOT), (x - high).to(DOT)


@triton.jit
def to_bfloat16(x, IS_PLAIN: tl.constexpr):
    """x rounded to the nearest bfloat16, half to even; the interpreter only cuts off, so there bits are added first."""
    result = x
    if IS_PLAIN:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & HIGH_HALF
        result = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return result.to(tl.bfloat16)


def is_plain() -> bool:
    """Whether kernels run in Triton's interpreter, which cannot multiply or round bfloat16."""
    return bool(knobs.runtime.interpret)


def dot_dtype() -> tl.dtype:
    """What products of float operands are given as."""
    return tl.float32 if is_plain() else tl.bfloat16


def is_whole(block: int, block_size: int, chunk: int) -> bool:
    """Whether tiles of `block` positions consist of whole blocks of the cache, wherever a chunk begins."""
    return block % block_size == 0 and block_size & (block_size - 1) == 0 and chunk % block_size == 0
