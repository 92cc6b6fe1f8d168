"""From the joint projection to queries and a filled cache, in one launch.

    q, k  rotated by their position (a cos - b sin, a sin + b cos), or left alone
          divided by sqrt(mean(x^2) + epsilon) where there is a QK-norm (Llama 4 takes it after the rotation)
    q     times its position's temperature where there is one
    k, v  into their slot of the cache, rounded to its dtype; int8 with one scale for each head and token

A program takes some heads of one token. All arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.paging import codes_of, is_plain, largest, scales_of, to_bfloat16
from twofold.backends.gpu.kernels.signature import Signature

HEADS_AT_ONCE = 8
"""Heads of a program: a token of Scout (40 + 16 of them) is seven programs, enough of them and full ones."""


@triton.jit
def turned(
    first_HK2, second_HK2, cosines_ptr, sines_ptr, is_turned_H, token, K: tl.constexpr, KP: tl.constexpr, EPSILON,
    ROTATES: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    """Both halves of every head after rotation and norm; heads that are not turned stay as they are."""
    pairs_K2 = tl.arange(0, KP // 2)
    inside_K2 = pairs_K2 < K // 2
    if ROTATES:
        cosine_K2 = tl.load(cosines_ptr + token * (K // 2) + pairs_K2, mask=inside_K2, other=0)[None, :]
        sine_K2 = tl.load(sines_ptr + token * (K // 2) + pairs_K2, mask=inside_K2, other=0)[None, :]
        a_HK2 = first_HK2 * cosine_K2 - second_HK2 * sine_K2
        b_HK2 = first_HK2 * sine_K2 + second_HK2 * cosine_K2
        first_HK2 = tl.where(is_turned_H[:, None], a_HK2, first_HK2)
        second_HK2 = tl.where(is_turned_H[:, None], b_HK2, second_HK2)
    if NORMS:
        squares_H = tl.sum(first_HK2 * first_HK2 + second_HK2 * second_HK2, axis=1)
        root_H = tl.where(is_turned_H, tl.sqrt_rn(tl.div_rn(squares_H, K * 1.0) + EPSILON), 1.0)
        first_HK2 = tl.div_rn(first_HK2, tl.broadcast_to(root_H[:, None], first_HK2.shape))
        second_HK2 = tl.div_rn(second_HK2, tl.broadcast_to(root_H[:, None], second_HK2.shape))
    return first_HK2, second_HK2


@triton.jit
def rounded(x, pointer, IS_PLAIN: tl.constexpr):
    """x in the float dtype that is pointed to."""
    if pointer.dtype.element_ty == tl.bfloat16:
        x = to_bfloat16(x, IS_PLAIN)
    return x


@triton.jit
def keep(
    items_ptr, scales_ptr, rows_H, first_HK2, second_HK2, places_HK2, others_HK2, inside_HK2,
    K: tl.constexpr, IS_PLAIN: tl.constexpr,
):  # fmt: skip
    """Write heads into their rows of keys or values; rows of other heads are -1."""
    inside_HK2 = inside_HK2 & (rows_H >= 0)[:, None]
    kind: tl.constexpr = items_ptr.dtype.element_ty
    if kind == tl.int8:
        scales_H, inverse_H = scales_of(tl.maximum(largest(first_HK2), largest(second_HK2)))
        tl.store(scales_ptr + rows_H, scales_H, mask=rows_H >= 0)
        first_HK2, second_HK2 = codes_of(first_HK2, inverse_H), codes_of(second_HK2, inverse_H)
    else:
        first_HK2 = rounded(first_HK2, items_ptr, IS_PLAIN)
        second_HK2 = rounded(second_HK2, items_ptr, IS_PLAIN)
    tl.store(items_ptr + rows_H[:, None] * K + places_HK2, first_HK2, mask=inside_HK2)
    tl.store(items_ptr + rows_H[:, None] * K + others_HK2, second_HK2, mask=inside_HK2)


@triton.jit
def heads_kernel(
    qkv_ptr, row_stride, q_ptr, keys_ptr, values_ptr, key_scales_ptr, value_scales_ptr, slots_ptr,
    cosines_ptr, sines_ptr, factors_ptr, heads, kv_heads, epsilon,
    K: tl.constexpr, KP: tl.constexpr, BLOCK_SIZE: tl.constexpr, HEADS: tl.constexpr, IS_INTERLEAVED: tl.constexpr,
    ROTATES: tl.constexpr, NORMS: tl.constexpr, TEMPERS: tl.constexpr, IS_PLAIN: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """qkv_TN float32 or bfloat16 with rows `row_stride` apart; writes q_THK in either and rows of the cache."""
    release(EARLY)
    wait(EARLY)
    token = tl.program_id(0).to(tl.int64)
    heads_H = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pairs_K2 = tl.arange(0, KP // 2)
    places_HK2 = (pairs_K2 * 2 if IS_INTERLEAVED else pairs_K2)[None, :]
    others_HK2 = places_HK2 + (1 if IS_INTERLEAVED else K // 2)
    inside_HK2 = (heads_H < heads + 2 * kv_heads)[:, None] & (pairs_K2 < K // 2)[None, :]
    source_H1 = qkv_ptr + token * row_stride + heads_H[:, None] * K
    first_HK2 = tl.load(source_H1 + places_HK2, mask=inside_HK2, other=0).to(tl.float32)
    second_HK2 = tl.load(source_H1 + others_HK2, mask=inside_HK2, other=0).to(tl.float32)

    is_query_H = heads_H < heads
    is_key_H = (heads_H >= heads) & (heads_H < heads + kv_heads)
    is_value_H = (heads_H >= heads + kv_heads) & (heads_H < heads + 2 * kv_heads)
    first_HK2, second_HK2 = turned(first_HK2, second_HK2, cosines_ptr, sines_ptr, is_query_H | is_key_H, token,
                                   K, KP, epsilon, ROTATES, NORMS)  # fmt: skip
    factor = tl.load(factors_ptr + token) if TEMPERS else 1.0
    target_H1 = q_ptr + (token * heads + heads_H[:, None]) * K
    is_query_HK2 = inside_HK2 & is_query_H[:, None]
    tl.store(target_H1 + places_HK2, rounded(first_HK2 * factor, q_ptr, IS_PLAIN), mask=is_query_HK2)
    tl.store(target_H1 + others_HK2, rounded(second_HK2 * factor, q_ptr, IS_PLAIN), mask=is_query_HK2)

    slot = tl.load(slots_ptr + token)
    if slot >= 0:
        heads_G = (heads_H - heads) % kv_heads
        rows_H = (slot // BLOCK_SIZE * kv_heads + heads_G) * BLOCK_SIZE + slot % BLOCK_SIZE
        keep(keys_ptr, key_scales_ptr, tl.where(is_key_H, rows_H, -1), first_HK2, second_HK2,
             places_HK2, others_HK2, inside_HK2, K, IS_PLAIN)  # fmt: skip
        keep(values_ptr, value_scales_ptr, tl.where(is_value_H, rows_H, -1), first_HK2, second_HK2,
             places_HK2, others_HK2, inside_HK2, K, IS_PLAIN)  # fmt: skip


def prepare(
    qkv_TN: Tensor, heads: int, kv_heads: int, size: int, slots_T: Tensor, cache: GpuCache,
    cosine_TK2: Tensor | None = None, sine_TK2: Tensor | None = None, interleaved: bool = False,
    norm_epsilon: float | None = None, factors_T: Tensor | None = None, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """q_THK in `dtype`, float32 or bfloat16, ready for attention; keys and values are written to the cache.

    qkv_TN float32 or bfloat16, its columns all q, then all k, then all v heads of `size` elements, an even number.
    slots_T int64: block * block size + offset; what has a negative slot is not written. cosine_TK2 and sine_TK2
    float32, None where nothing is rotated; `interleaved` as in ops.types.Rope. norm_epsilon: of the QK-norm, None
    without one. factors_T float32: temperature of the queries, None without one.
    """
    tokens = len(qkv_TN)
    q_THK = torch.empty(tokens, heads, size, dtype=dtype, device=qkv_TN.device)
    if tokens == 0:
        return q_THK
    unused = cache.counters  # a pointer that is never followed
    grid = (tokens, cdiv(heads + 2 * kv_heads, HEADS_AT_ONCE))
    launch(
        heads_kernel, grid,
        qkv_TN, qkv_TN.stride(0), q_THK, cache.keys, cache.values, cache.key_scales, cache.value_scales, slots_T,
        unused if cosine_TK2 is None else cosine_TK2, unused if sine_TK2 is None else sine_TK2,
        unused if factors_T is None else factors_T, heads, kv_heads, norm_epsilon or 0.0,
        K=size, KP=max(2, power_from(size)), BLOCK_SIZE=cache.block_size, HEADS=HEADS_AT_ONCE,
        IS_INTERLEAVED=interleaved, ROTATES=cosine_TK2 is not None, NORMS=norm_epsilon is not None,
        TEMPERS=factors_T is not None, IS_PLAIN=is_plain(), num_warps=4, **options(qkv_TN.device),
    )  # fmt: skip
    return q_THK


SIGNATURES = {
    "bf16": Signature(
        kernel=heads_kernel,
        arguments="qkv_ptr:*fp32 row_stride:i32:16 q_ptr:*fp32 keys_ptr:*bf16 values_ptr:*bf16 key_scales_ptr:*fp32"
        " value_scales_ptr:*fp32 slots_ptr:*i64 cosines_ptr:*fp32 sines_ptr:*fp32 factors_ptr:*fp32 heads:i32"
        " kv_heads:i32 epsilon:fp32",
        constants={
            "K": 128, "KP": 128, "BLOCK_SIZE": 32, "HEADS": HEADS_AT_ONCE, "IS_INTERLEAVED": True, "ROTATES": True,
            "NORMS": True, "TEMPERS": False, "IS_PLAIN": False, "EARLY": False,
        },
    ),
}  # fmt: skip
"""What test_compiles watches."""
