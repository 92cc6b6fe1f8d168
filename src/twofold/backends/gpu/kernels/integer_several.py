"""Products of several tokens with integer weights: too many for dot products, too few for tiles.

A program takes sixteen rows, and each of its warps some of the columns. A lane holds 16 bytes of two rows for each step
in registers, asked for long before they are used (integer_sums); four-bit codes become m * level there, by the sixteen
products of the group's m. The matrix units take them from the registers, with eight tokens at once: which column a lane
has matters to nobody, as long as it has the same ones of the tokens. Sums are integers, exact in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.integer_few import word_view
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.level_rows import level_rows
from twofold.backends.gpu.kernels.matrix_sums import hold_tile, tile_sums, token_of
from twofold.backends.gpu.kernels.order import Order
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import Int4Weight, IntegerWeight
from twofold.ops.activations import REST_STEPS

ROWS = tl.constexpr(16)
TOKENS_AT_ONCE = 8
"""Tokens of one product of the matrix units."""
MOST_TOKENS = 32
LEAST_CAPABILITY = (8, 0)
"""Of CUDA: from here on there is the product of the matrix units that matrix_sums asks for."""
_REST = tl.constexpr(1 / REST_STEPS)


@cache
def has_kernel(device: torch.device) -> bool:
    """Whether there is a kernel for this device; AMD's matrix units want their operands otherwise."""
    return target() == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


@dataclass(frozen=True)
class Share:
    """How a program's work is shared: its warps, each with a part of the columns, and steps held in registers."""

    warps: int
    steps: int


CONFIGS = (Share(4, 10), Share(4, 4), Share(4, 2), Share(8, 5), Share(8, 2))
"""What a sweep tries."""
MOST_STEPS = 10
"""Steps that a lane holds at once of four-bit weights: with their multipliers ten registers each."""


def choose(tokens: int, width: int, is_four: bool) -> Share:
    """The share for so many tokens of a program and padded columns, measured on an H100.

    Four-bit weights are held whole where they fit, up to sixteen tokens; then registers are wanted for sums.
    """
    warps = 4 if is_four else 8
    count = cdiv(width // (32 if is_four else 16), 4 * warps)
    is_small = is_four and tokens <= 2 * TOKENS_AT_ONCE
    if is_small and count <= MOST_STEPS:
        return Share(warps, count)
    return Share(warps, max(steps for steps in (1, 2, 4 if is_small else 2) if count % steps == 0))


def several(codes: Codes, weight: IntegerWeight, add_TN: Tensor | None = None, share: Share | None = None) -> Tensor:
    """The product of at most MOST_TOKENS tokens with a matrix, float32 [T, N], plus `add_TN` (contiguous) if given."""
    tokens = len(codes)
    assert tokens <= MOST_TOKENS, "more of them are for tiles"
    y_TN = torch.empty(tokens, weight.shape[-2], device=codes.scales_T.device)
    if tokens:
        parts = power_from(cdiv(tokens, TOKENS_AT_ONCE))
        start(codes, weight, y_TN, 1, parts, share, add=add_TN)
    return y_TN


def several_routed(
    codes: Codes, active: int, order: Order, gates_R: Tensor | None, weight: IntegerWeight, share: Share | None = None
) -> Tensor:
    """Row r: the codes of token r // active, their scale times gates_R[r], with the matrix of its expert: [R, N].

    `order` is of kernels.order, its blocks of 8, 16 or 32 rows.
    """
    assert order.block in (8, 16, 32), "blocks are whole products of the matrix units"
    count = len(codes) * active
    y_RN = torch.empty(count, weight.shape[-2], device=codes.scales_T.device)
    if count:
        parts = order.block // TOKENS_AT_ONCE
        blocks = len(order.expert_of_block)
        start(codes, weight, y_RN, blocks, parts, share, active=active, order=order, gates=gates_R)
    return y_RN


def start(
    codes: Codes, weight: IntegerWeight, y: Tensor, blocks: int, parts: int, share: Share | None,
    *, add: Tensor | None = None, active: int = 0, order: Order | None = None, gates: Tensor | None = None,
) -> None:  # fmt: skip
    """Start the kernel; what is not there is stood in for by y, which is then not read."""
    assert add is None or add.is_contiguous(), "rows of what is added are one behind the other"
    assert target() != "hip", "see has_kernel"
    is_four, width = isinstance(weight, Int4Weight), codes.codes_TCW.shape[-1]
    share = share or choose(parts * TOKENS_AT_ONCE, width, is_four)
    launch(
        several_kernel, (cdiv(weight.shape[-2], ROWS.value), blocks),
        codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, len(codes),
        y if order is None else order.rows, y if order is None else order.expert_of_block,
        y if gates is None else gates, weight.codes.view(torch.int32),
        word_view(weight.multipliers) if isinstance(weight, Int4Weight) else y, weight.scales,
        level_rows(y.device), y if add is None else add, y, weight.shape[-2], weight.scales.shape[-1],
        weight.shape[0] if len(weight.shape) > 2 else 1,
        WIDTH=width, FOUR=is_four, PARTS=parts, WARPS=share.warps, STEPS=share.steps, ACTIVE=active,
        HAS_GATES=gates is not None, HAS_ADD=add is not None, TARGET=target(), **options(y.device),
        num_warps=share.warps, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])
def several_kernel(
    x, scales_T, wide_T, tokens, rows_P, experts_B, gates_R, codes, multipliers, scales_N, tables, add, y,
    rows, stack_rows, experts,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, PARTS: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr,
    ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr, TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS rows (axis 0) of the products of a block (axis 1) of PARTS times eight tokens."""
    release(EARLY)
    first = tl.program_id(0) * ROWS
    row = first.to(tl.int64)
    expert = tl.full((), 0, tl.int32)
    if ACTIVE > 0:
        wait(EARLY)
        expert = tl.load(experts_B + tl.program_id(1))
        if (expert < 0) | (expert >= experts):
            return
        row += expert.to(tl.int64) * stack_rows
    codes += row * (WIDTH // 8 if FOUR else WIDTH // 4)
    multipliers += row * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
    held = hold_tile(codes, multipliers, 0, WIDTH, FOUR, WARPS, STEPS, TARGET)
    wait(EARLY)
    places = tl.program_id(1) * (8 * PARTS) + tl.arange(0, 8 * PARTS)
    token_P, _, is_there_P = token_of(rows_P, places, tokens, ACTIVE)
    wide_P = tl.where(is_there_P, tl.load(wide_T + token_P), 0)
    sums = tile_sums(
        held, x, rows_P, tokens, codes, multipliers, tables, WIDTH, FOUR, PARTS, WARPS, STEPS, ACTIVE, TARGET
    )
    for part in tl.static_range(PARTS):
        store_part(sums[part], part, first, 1.0, scales_T, wide_T, tokens, rows_P, gates_R, scales_N + row, add, y,
                   rows, PARTS, ACTIVE, HAS_GATES, HAS_ADD, False)  # fmt: skip
    if tl.max(wide_P, axis=0) != 0:
        tl.debug_barrier()  # what was stored is read again
        again = hold_tile(codes, multipliers, 0, WIDTH, FOUR, WARPS, 1, TARGET)
        sums = tile_sums(
            again, x + WIDTH // 4, rows_P, tokens, codes, multipliers, tables, WIDTH, FOUR, PARTS, WARPS, 1, ACTIVE,
            TARGET,
        )  # fmt: skip
        for part in tl.static_range(PARTS):
            store_part(sums[part], part, first, _REST, scales_T, wide_T, tokens, rows_P, gates_R, scales_N + row, add,
                       y, rows, PARTS, ACTIVE, HAS_GATES, HAS_ADD, True)  # fmt: skip


@triton.jit
def store_part(
    sums_E, part: tl.constexpr, first, factor, scales_T, wide_T, tokens, rows_P, gates_R, scales_N, add, y, rows,
    PARTS: tl.constexpr, ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr, IS_REST: tl.constexpr,
):  # fmt: skip
    """float(sum) * (x_scale * factor * gate * w_scale) of a part; IS_REST: of wide tokens, beside what is there.

    What is to be added comes last, when a token has both of its products.
    """
    elements_E = tl.arange(0, 128)
    row_E = elements_E // 16 + 8 * (elements_E % 2)
    places_E = tl.program_id(1) * (8 * PARTS) + part * 8 + elements_E // 4 % 4 * 2 + elements_E // 2 % 2
    token_E, result_E, is_there_E = token_of(rows_P, places_E, tokens, ACTIVE)
    is_there_E = is_there_E & (first + row_E < rows)
    is_wide_E = tl.load(wide_T + token_E) != 0
    if IS_REST:
        is_there_E = is_there_E & is_wide_E
    scale_E = tl.load(scales_T + token_E) * factor
    if HAS_GATES:
        scale_E *= tl.load(gates_R + result_E, mask=is_there_E, other=0.0)
    product_E = sums_E.to(tl.float32) * (scale_E * tl.load(scales_N + row_E))
    at_E = result_E.to(tl.int64) * rows + first + row_E
    if IS_REST:
        product_E += tl.load(y + at_E, mask=is_there_E, other=0.0)
    if HAS_ADD:
        is_whole_E = is_there_E if IS_REST else is_there_E & ~is_wide_E
        product_E += tl.load(add + at_E, mask=is_whole_E, other=0.0)
    tl.store(y + at_E, product_E, mask=is_there_E)


_ARGUMENTS = (
    "x:*i32 scales_T:*fp32 wide_T:*i32 tokens:i32 rows_P:*i32 experts_B:*i32 gates_R:*fp32 codes:*i32 multipliers:*i32"
    " scales_N:*fp32 tables:*i32 add:*fp32 y:*fp32 rows:i32:16 stack_rows:i32:16 experts:i32"
)
_CONSTANTS: dict[str, Any] = {
    "WIDTH": 5120, "FOUR": True, "PARTS": 1, "WARPS": 4, "STEPS": 10, "ACTIVE": 0, "HAS_GATES": False, "HAS_ADD": False,
}  # fmt: skip
SIGNATURES = {
    name: Signature(
        kernel=several_kernel, arguments=_ARGUMENTS, constants=_CONSTANTS | changes, warps=changes.get("WARPS", 4),
        fusion=False, targets=("sm_80", "sm_90"),
    )
    for name, changes in {
        "eight tokens": {},
        "sixteen tokens": {"PARTS": 2},
        "32 tokens": {"PARTS": 4, "STEPS": 2},
        "8192 columns": {"WIDTH": 8192, "STEPS": 4},
        "routed": {"ACTIVE": 1, "HAS_GATES": True},
        "int8": {"FOUR": False, "WARPS": 8, "STEPS": 2},
    }.items()
}  # fmt: skip
"""What test_compiles watches."""
