"""Parts of a row's context: each program's result over some positions, and how they become the row's output.

A result is the largest score of each head, the sum of 2^(score - largest), and the sum of values weighted so. Results
are kept as sums[part, 2, HEADS] and partial[part, HEADS, K] and joined in the order of the parts, by the program that
is the last of its row to be done.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def places_of(H: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, K: tl.constexpr):
    """Of a tile of H heads: their numbers [H] and which there are, offsets [H, KP] and which there are."""
    lanes_H, columns_K = tl.arange(0, H), tl.arange(0, KP)
    inside_H = lanes_H < HEADS
    return lanes_H, inside_H, lanes_H[:, None] * K + columns_K[None, :], inside_H[:, None] & (columns_K < K)[None, :]


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
def merge(
    room, parts, o_ptr, H: tl.constexpr, KP: tl.constexpr, HEADS: tl.constexpr, K: tl.constexpr, BURST: tl.constexpr
):
    """Write the outputs of one row and KV head: its parts, joined in their order. BURST of them are read at once."""
    partial_ptr, sums_ptr = room
    lanes_H, inside_H, places_HK, inside_HK = places_of(H, KP, HEADS, K)
    top_H, sum_H, acc_HK = nothing(H, KP)
    for start in range(0, parts, BURST):
        for step in tl.static_range(BURST):
            part = start + step
            is_part_H = inside_H & (part < parts)
            is_part_HK = inside_HK & (part < parts)
            own_ptr = sums_ptr + part * (2 * HEADS) + lanes_H
            own_top_H = tl.load(own_ptr, mask=is_part_H, other=float("-inf"), cache_modifier=".cg")
            own_top_H = tl.where(inside_H, own_top_H, 0.0)
            own_sum_H = tl.load(own_ptr + HEADS, mask=is_part_H, other=0, cache_modifier=".cg")
            own_HK = tl.load(partial_ptr + part * (HEADS * K) + places_HK, mask=is_part_HK, other=0,
                             cache_modifier=".cg")  # fmt: skip
            top_H, sum_H, acc_HK = join(top_H, sum_H, acc_HK, (own_top_H, own_sum_H, own_HK))
    tl.store(o_ptr + places_HK, acc_HK / tl.where(inside_H, sum_H, 1.0)[:, None], mask=inside_HK)


@triton.jit
def is_last(counter_ptr, parts, programs):
    """Whether parts are to be merged by this program: all others of its row are done. The counter is set back then."""
    last = False
    if parts > 1:
        tl.debug_barrier()  # all threads have written before one of them says so
        last = tl.atomic_add(counter_ptr, 1, sem="acq_rel") == programs - 1
        if last:
            tl.store(counter_ptr, 0)
    return last
