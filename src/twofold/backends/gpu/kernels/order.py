"""Rows in the order of their experts, each expert's in blocks of one size: what a grouped product reads.

Everything stays on the device, so the number of blocks is an upper bound known beforehand: rows / block of full ones
and one more for every expert that can have any. Each program counts all rows, which are few integers, and writes its
own expert's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.signature import Signature


@dataclass(frozen=True, eq=False)
class Order:
    """rows int32 [B * block]: rows of one expert after another, -1 where a block is not full; expert_of_block int32
    [B], -1 for blocks that are not used.
    """  # fmt: skip

    rows: Tensor
    expert_of_block: Tensor
    block: int


def order(experts_R: Tensor, expert_count: int, block: int) -> Order:
    """The order of rows by their expert (int32 [R], 0..expert_count - 1); rows of an expert keep their order."""
    count = len(experts_R)
    blocks = count // block + min(expert_count, count)
    rows = torch.empty(blocks * block, dtype=torch.int32, device=experts_R.device)
    expert_of_block = torch.empty(blocks, dtype=torch.int32, device=experts_R.device)
    if blocks:
        step = min(1024, max(16, power_from(count)))
        launch(
            order_kernel, (expert_count,),
            experts_R, rows, expert_of_block, count, expert_count, blocks,
            BLOCK=block, EXPERTS=max(2, power_from(expert_count)), STEP=step, num_warps=4,
        )  # fmt: skip
    return Order(rows, expert_of_block, block)


@triton.jit(do_not_specialize=["count", "blocks"])
def order_kernel(
    experts_R, rows_P, expert_of_block, count, expert_count, blocks,
    BLOCK: tl.constexpr, EXPERTS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The blocks of one expert; the last expert's program also marks the blocks that are left over."""
    expert = tl.program_id(0)
    experts_E = tl.arange(0, EXPERTS)
    counts_E = tl.zeros((EXPERTS,), tl.int32)
    places_S = tl.arange(0, STEP)
    start = 0
    while start < count:  # range takes no tensors in the interpreter
        is_there_S = start + places_S < count
        chosen_S = tl.load(experts_R + start + places_S, mask=is_there_S, other=0)
        counts_E += tl.histogram(chosen_S, EXPERTS, mask=is_there_S)
        start += STEP
    blocks_E = (counts_E + BLOCK - 1) // BLOCK
    first = tl.sum(tl.where(experts_E < expert, blocks_E, 0), axis=0)
    own = tl.sum(tl.where(experts_E == expert, blocks_E, 0), axis=0)
    found = first * BLOCK
    start = 0
    while start < count:
        chosen_S = tl.load(experts_R + start + places_S, mask=start + places_S < count, other=-1)
        is_own_S = (chosen_S == expert).to(tl.int32)
        slots_S = found + tl.cumsum(is_own_S, axis=0) - 1
        tl.store(rows_P + slots_S, start + places_S, mask=is_own_S != 0)
        found += tl.sum(is_own_S, axis=0)
        start += STEP
    fill_B = tl.arange(0, BLOCK)
    tl.store(rows_P + found + fill_B, -1, mask=found + fill_B < (first + own) * BLOCK)
    is_last = expert == expert_count - 1
    start = 0
    while start < blocks:
        blocks_S = start + places_S
        is_left_S = is_last & (blocks_S >= first + own) & (blocks_S < blocks)
        is_own_S = (blocks_S >= first) & (blocks_S < first + own)
        tl.store(expert_of_block + blocks_S, tl.where(is_left_S, -1, expert), mask=is_left_S | is_own_S)
        start += STEP
    if is_last:
        start = 0
        while start < blocks * BLOCK:
            slots_S = start + places_S
            is_left_S = (slots_S >= (first + own) * BLOCK) & (slots_S < blocks * BLOCK)
            tl.store(rows_P + slots_S, tl.full((STEP,), -1, tl.int32), mask=is_left_S)
            start += STEP


SIGNATURES = {
    "16 experts": Signature(
        kernel=order_kernel,
        arguments="experts_R:*i32 rows_P:*i32 expert_of_block:*i32 count:i32 expert_count:i32 blocks:i32",
        constants={"BLOCK": 64, "EXPERTS": 16, "STEP": 1024},
    )
}
"""What test_compiles watches."""
