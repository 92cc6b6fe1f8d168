"""One token through its shared and its routed expert at once, integer weights.

Two products of one kind in one launch, so that a step has half as many and the memory is never idle between them. The
sums and what is added in which order are those of integer_few: the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.integer_few import (
    Cut,
    choose,
    integer_products,
    read_added,
    read_each,
    registers,
    word_view,
)
from twofold.backends.gpu.kernels.integer_sums import hold
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import Int4Weight, IntegerWeight


def pair(
    codes: Codes, shared: IntegerWeight, expert: Tensor, gate: Tensor, stack: IntegerWeight, cut: Cut | None = None
) -> Tensor:
    """Row 0: one token's product with `shared`; row 1: with matrix expert[0] (int32), its scale times gate[0]: [2, N].

    Both are float32; both matrices are alike in format and shape.
    """
    rows = shared.shape[-2]
    y_2N = torch.empty(2, rows, device=codes.scales_T.device)
    launch(pair_kernel, 2, codes, shared, expert, gate, stack, y_2N, y_2N, cut)
    return y_2N


def pair_sum(
    codes: Codes, shared: IntegerWeight, expert: Tensor, stack: IntegerWeight, add_1N: Tensor, cut: Cut | None = None
) -> Tensor:
    """add + the product of token 0 with `shared` + that of token 1 with matrix expert[0]: float32 [1, N]."""
    y_1N = torch.empty(1, shared.shape[-2], device=codes.scales_T.device)
    launch(pair_sum_kernel, 1, codes, shared, expert, codes.scales_T, stack, add_1N, y_1N, cut)
    return y_1N


def launch(
    kernel: Any, programs: int, codes: Codes, shared: IntegerWeight, expert: Tensor, gate: Tensor,
    stack: IntegerWeight, add: Tensor, y: Tensor, cut: Cut | None,
) -> None:  # fmt: skip
    """Start one of both kernels with so many programs for the same rows: one that does both holds both."""
    assert add.is_contiguous(), "rows of what is added are one behind the other"
    rows, width, is_four = shared.shape[-2], codes.codes_TCW.shape[-1], isinstance(shared, Int4Weight)
    cut = cut or choose(1, rows, width, is_four)
    kernel[(triton.cdiv(rows, cut.rows), programs)](
        codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T,
        shared.codes.view(torch.int32), word_view(shared.multipliers) if isinstance(shared, Int4Weight) else y,
        shared.scales, stack.codes.view(torch.int32),
        word_view(stack.multipliers) if isinstance(stack, Int4Weight) else y, stack.scales,
        expert, gate, add, y, rows, stack.scales.shape[-1],
        WIDTH=width, FOUR=is_four, ROWS=cut.rows, LANES=32 * cut.warps, STEPS=cut.steps, TARGET=target(),
        **options(y.device), **registers(cut, 1, width, is_four, 2 - programs), num_warps=cut.warps,
        enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def at_row(codes, multipliers, scales_N, row, WIDTH: tl.constexpr, FOUR: tl.constexpr):
    """Pointers to a row of a weight."""
    codes += row * (WIDTH // 8 if FOUR else WIDTH // 4)
    multipliers += row * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
    return codes, multipliers, scales_N + row


@triton.jit
def pair_kernel(
    x, scales_T, wide_T, shared_codes, shared_multipliers, shared_scales, codes, multipliers, scales_N,
    expert_1, gate_1, add, y, rows, stack_rows,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
    TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the shared product (program axis 1: 0), whose weights nobody has to be waited for, or the other."""
    release(EARLY)
    first = tl.program_id(0) * ROWS
    row = first.to(tl.int64)
    is_routed = tl.program_id(1) == 1
    if is_routed:
        wait(EARLY)
        row += tl.load(expert_1).to(tl.int64) * stack_rows
    else:
        codes, multipliers, scales_N = shared_codes, shared_multipliers, shared_scales
    codes, multipliers, scales_N = at_row(codes, multipliers, scales_N, row, WIDTH, FOUR)
    held = hold(codes, multipliers, 0, WIDTH, FOUR, ROWS, LANES, STEPS, TARGET)
    scales = read_each(scales_N, ROWS, ROWS)
    wait(EARLY)
    gate = tl.where(is_routed, tl.load(gate_1), 1.0)
    products = integer_products(
        held, scales, x, scales_T, wide_T, 1, gate, codes, multipliers,
        WIDTH, FOUR, 1, ROWS, LANES, STEPS, TARGET,
    )  # fmt: skip
    y += tl.program_id(1) * rows + first
    for index in tl.static_range(ROWS):
        tl.store(y + index, products[index], mask=first + index < rows)


@triton.jit
def pair_sum_kernel(
    x, scales_T, wide_T, shared_codes, shared_multipliers, shared_scales, codes, multipliers, scales_N,
    expert_1, gate_1, add, y, rows, stack_rows,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
    TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS rows of both products; the routed weights are under way while the shared ones are multiplied."""
    release(EARLY)
    first = tl.program_id(0) * ROWS
    row = first.to(tl.int64)
    shared_codes, shared_multipliers, shared_scales = at_row(
        shared_codes, shared_multipliers, shared_scales, row, WIDTH, FOUR
    )
    held = hold(shared_codes, shared_multipliers, 0, WIDTH, FOUR, ROWS, LANES, STEPS, TARGET)
    own = read_each(shared_scales, ROWS, ROWS)
    wait(EARLY)
    row += tl.load(expert_1).to(tl.int64) * stack_rows
    codes, multipliers, scales_N = at_row(codes, multipliers, scales_N, row, WIDTH, FOUR)
    following = hold(codes, multipliers, 0, WIDTH, FOUR, ROWS, LANES, STEPS, TARGET)
    scales = read_each(scales_N, ROWS, ROWS)
    added = read_added(add + first, 1, rows - first, rows, 1, ROWS, True)
    shared = integer_products(
        held, own, x, scales_T, wide_T, 1, 1.0, shared_codes, shared_multipliers,
        WIDTH, FOUR, 1, ROWS, LANES, STEPS, TARGET,
    )  # fmt: skip
    routed = integer_products(
        following, scales, x + WIDTH // 2, scales_T + 1, wide_T + 1, 1, 1.0, codes, multipliers,
        WIDTH, FOUR, 1, ROWS, LANES, STEPS, TARGET,
    )  # fmt: skip
    for index in tl.static_range(ROWS):
        tl.store(y + first + index, shared[index] + added[index] + routed[index], mask=first + index < rows)


_ARGUMENTS = (
    "x:*i32 scales_T:*fp32 wide_T:*i32 shared_codes:*i32 shared_multipliers:*i32 shared_scales:*fp32 codes:*i32"
    " multipliers:*i32 scales_N:*fp32 expert_1:*i32 gate_1:*fp32 add:*fp32 y:*fp32 rows:i32:16 stack_rows:i32:16"
)
_CONSTANTS: dict[str, Any] = {"FOUR": True, "LANES": 32}
SIGNATURES = {
    "first product": Signature(
        kernel=pair_kernel, arguments=_ARGUMENTS, constants={**_CONSTANTS, "WIDTH": 5120, "ROWS": 4, "STEPS": 5},
        warps=1, fusion=False, registers=144,
    ),
    "last product": Signature(
        kernel=pair_sum_kernel, arguments=_ARGUMENTS, constants={**_CONSTANTS, "WIDTH": 8192, "ROWS": 2, "STEPS": 8},
        warps=1, fusion=False, registers=200,
    ),
}  # fmt: skip
"""What test_compiles watches."""
