"""The best ids of every row of logits without sorting the vocabulary.

How far a logit lies below the best one says its bin, sixteen bins for each power of two: so a row is told apart as well
whatever its scale. Bins are counted; those that hold enough ids together, from the best on, give the candidates, as
keys of which the largest is the best: the bits of the logit in the order of its size, then the id upside down. Only
they are sorted. Counting, finding the last bin and collecting are a launch each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature

BINS = 512
FIRST = (127 - 16) * 16
"""Bits of 2^-16, less the last nineteen: nearer ones share a bin."""
BLOCK = 8192
"""Ids of one program."""
ROOM = 2048
"""Candidates of a row at most; where there are more, the row is not told apart well enough."""
EMPTY = -(2**63) + 1
"""Below every key; where a row has fewer than ROOM."""


@triton.jit
def bins_of(logits, best, FIRST: tl.constexpr, BINS: tl.constexpr):
    """The bin of every logit, int32."""
    bits = (best - logits).to(tl.int32, bitcast=True) >> 19
    return tl.minimum(tl.maximum(bits - FIRST, 0), BINS - 1)


@triton.jit
def count_kernel(logits, best, counts, V, blocks, FIRST: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """logits_RV, best_R f32; counts [R, blocks, BINS] int32. Logits of -inf are no candidates."""
    row = tl.program_id(1).to(tl.int64)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = tl.load(logits + row * V + ids, mask=ids < V, other=float("-inf"))
    found = tl.histogram(bins_of(some, tl.load(best + row), FIRST, BINS), BINS, mask=some > float("-inf"))
    tl.store(counts + (row * blocks + tl.program_id(0)) * BINS + tl.arange(0, BINS), found)


@triton.jit
def limit_kernel(
    counts, wanted, limits, found, totals, filled, keys, blocks,
    BINS: tl.constexpr, ROOM: tl.constexpr, EMPTY: tl.constexpr,
):  # fmt: skip
    """counts [R, blocks, BINS] int32, wanted_R int64; limits_R, found_R, totals_R int64: see best_keys.

    filled_R int32 and keys [R, ROOM] int64 are made ready for what is collected.
    """
    row = tl.program_id(0).to(tl.int64)
    bins = tl.arange(0, BINS)
    count = tl.zeros([BINS], tl.int32)
    for block in range(blocks):
        count += tl.load(counts + (row * blocks + block) * BINS + bins)
    up_to = tl.cumsum(count, axis=0)
    limit = tl.minimum(tl.sum((up_to < tl.load(wanted + row)).to(tl.int32), axis=0), BINS - 1)
    chosen = tl.sum(tl.where(bins == limit, up_to, 0), axis=0)
    tl.store(limits + row, limit.to(tl.int64))
    tl.store(found + row, tl.where(chosen <= ROOM, chosen, 0).to(tl.int64))
    tl.store(totals + row, tl.sum(count, axis=0).to(tl.int64))
    tl.store(filled + row, 0)
    tl.store(keys + row * ROOM + tl.arange(0, ROOM), tl.full([ROOM], EMPTY, tl.int64))


@triton.jit
def collect_kernel(
    logits, best, limits, filled, keys, V,
    FIRST: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    """limits_R int64: the last bin that counts; filled_R int32, zeros at first; keys [R, ROOM] int64, in any order."""
    row = tl.program_id(1).to(tl.int64)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = tl.load(logits + row * V + ids, mask=ids < V, other=float("-inf"))
    bins = bins_of(some, tl.load(best + row), FIRST, BINS)
    chosen = ((some > float("-inf")) & (bins <= tl.load(limits + row).to(tl.int32))).to(tl.int32)
    count = tl.sum(chosen, axis=0)
    start = tl.atomic_add(filled + row, count)
    place = start + tl.cumsum(chosen, axis=0) - 1
    bits = (some + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = (bits.to(tl.int64) << 32) | (4294967295 - ids.to(tl.int64))
    tl.store(keys + row * ROOM + place, key, mask=(chosen > 0) & (place < ROOM))


def best_keys(logits_RV: Tensor, best_R: Tensor, wanted_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys of the best ids of every row, best first, int64 [R, ROOM]; how many they are; of how many.

    At least wanted_R (int64) of a row where it has so many that are not -inf, but none at all where that would be more
    than ROOM. logits_RV is float32 and contiguous, best_R its largest values.
    """
    rows, vocabulary = logits_RV.shape
    blocks = cdiv(vocabulary, BLOCK)
    counts = torch.empty(rows, blocks, BINS, dtype=torch.int32, device=logits_RV.device)
    keys = torch.empty(rows, ROOM, dtype=torch.int64, device=logits_RV.device)
    limits_R, found_R, totals_R = torch.empty(3, rows, dtype=torch.int64, device=logits_RV.device)
    filled_R = torch.empty(rows, dtype=torch.int32, device=logits_RV.device)
    shape = {"FIRST": FIRST, "BINS": BINS, "BLOCK": BLOCK}
    grid = (blocks, rows)
    launch(count_kernel, grid, logits_RV, best_R, counts, vocabulary, blocks, **shape, num_warps=8)
    facts = (counts, wanted_R, limits_R, found_R, totals_R, filled_R, keys, blocks)
    launch(limit_kernel, (rows,), *facts, BINS=BINS, ROOM=ROOM, EMPTY=EMPTY, num_warps=4)
    launch(
        collect_kernel, grid, logits_RV, best_R, limits_R, filled_R, keys, vocabulary, **shape, ROOM=ROOM, num_warps=8
    )
    return keys.sort(dim=1, descending=True).values, found_R, totals_R


SIGNATURES = {
    "count": Signature(
        kernel=count_kernel,
        arguments="logits:*fp32 best:*fp32 counts:*i32 V:i32:16 blocks:i32",
        constants={"FIRST": FIRST, "BINS": BINS, "BLOCK": BLOCK},
        warps=8,
    ),
    "limit": Signature(
        kernel=limit_kernel,
        arguments="counts:*i32 wanted:*i64 limits:*i64 found:*i64 totals:*i64 filled:*i32 keys:*i64 blocks:i32",
        constants={"BINS": BINS, "ROOM": ROOM, "EMPTY": EMPTY},
    ),
    "collect": Signature(
        kernel=collect_kernel,
        arguments="logits:*fp32 best:*fp32 limits:*i64 filled:*i32 keys:*i64 V:i32:16",
        constants={"FIRST": FIRST, "BINS": BINS, "BLOCK": BLOCK, "ROOM": ROOM},
        warps=8,
    ),
}
"""What test_compiles watches."""
