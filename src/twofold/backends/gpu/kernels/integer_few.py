"""Products of few tokens with integer weights.

    y[t, n] = float(sum_d code[t, d] * integer[n, d]) * (x_scale[t] * w_scale[n])

and the same of the second row of codes on top where a token is wide. A step of one token reads every weight once, so
this kernel is as fast as it reads. A program has a few rows; its lanes lie along the columns with 16 bytes of every row
each, which they ask for long before they multiply. A row's 32 lanes add up at the end: sums are integers, so neither
the order nor the tokens beside it matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.integer_sums import hold, integer_sums
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import find_row
from twofold.backends.gpu.weights import Int4Weight, IntegerWeight
from twofold.ops.activations import REST_STEPS
from twofold.ops.layout import padded

MOST_TOKENS = 8
_REST = tl.constexpr(1 / REST_STEPS)


@dataclass(frozen=True)
class Cut:
    """How a product is cut: rows of a program, its warps (all along the columns) and steps held in registers."""

    rows: int
    warps: int
    steps: int


CONFIGS = (Cut(4, 1, 5), Cut(2, 1, 5), Cut(2, 1, 8), Cut(1, 1, 8), Cut(2, 1, 1), Cut(4, 1, 1))
"""What a sweep tries for one token."""
MOST_HELD = 20
"""Steps of all rows that a thread holds at once, five registers each."""


def choose(tokens: int, rows: int, width: int, is_four: bool = True) -> Cut:
    """The cut for a weight of so many rows and padded columns.

    One or two tokens take rows whole where they fit; with more of them a lane has room for fewer weights.
    """
    count = steps_of(width, is_four, 1)
    if tokens > 2:
        return Cut(2, 1, 1)
    height = 4 if rows >= 2048 else 2 if rows >= 512 else 1  # enough programs for every multiprocessor
    while height > 1 and height * count > MOST_HELD:
        height //= 2
    return Cut(height, 1, held_steps(count, height))


def held_steps(count: int, rows: int) -> int:
    """Steps of so many rows held at once: all of `count` where they fit, else so many that fit twice and divide it."""
    if rows * count <= MOST_HELD:
        return count
    return max(steps for steps in range(1, max(1, MOST_HELD // (2 * rows)) + 1) if count % steps == 0)


def steps_of(width: int, is_four: bool, warps: int) -> int:
    """Steps of a row of so many padded columns: a lane takes 16 bytes in each."""
    steps: int = cdiv(width // (32 if is_four else 16), 32 * warps)
    return steps


def registers(cut: Cut, tokens: int, width: int, is_four: bool) -> dict[str, int]:
    """What a launcher adds for a thread's registers, on CUDA: as many as hold everything.

    Left to itself the compiler takes all 255, and half of the programs find no room.
    """
    if target() != "cuda":
        return {}
    held = 1 if steps_of(width, is_four, cut.warps) <= cut.steps else 2
    return {"maxnreg": min(255, padded(44 + 5 * cut.rows * cut.steps * held + 12 * (tokens - 1), 8))}


def few(codes: Codes, weight: IntegerWeight, add_TN: Tensor | None = None, cut: Cut | None = None) -> Tensor:
    """The product of at most MOST_TOKENS tokens with a matrix, float32 [T, N], plus `add_TN` (contiguous) if given."""
    tokens, rows = len(codes), weight.shape[-2]
    y_TN = torch.empty(tokens, rows, device=codes.scales_T.device)
    cut = cut or choose(tokens, rows, codes.codes_TCW.shape[-1], isinstance(weight, Int4Weight))
    if tokens:
        slots = power_from(tokens)
        start(codes, weight, y_TN, (cdiv(rows, cut.rows),), cut, TOKENS=slots, add=add_TN)
    return y_TN


def few_routed(
    codes: Codes,
    active: int,
    experts_R: Tensor,
    gates_R: Tensor | None,
    weight: IntegerWeight,
    cut: Cut | None = None,
    add_RN: Tensor | None = None,
) -> Tensor:
    """Row r: the codes of token r // active, their scale times gates_R[r], with matrix experts_R[r] (int32): [R, N].

    add_RN (contiguous) is added to it.
    """
    rows = weight.shape[-2]
    y_RN = torch.empty(len(experts_R), rows, device=codes.scales_T.device)
    cut = cut or choose(1, rows, codes.codes_TCW.shape[-1], isinstance(weight, Int4Weight))
    grid = (cdiv(rows, cut.rows), len(experts_R))
    if len(experts_R):
        start(
            codes, weight, y_RN, grid, cut, TOKENS=1, add=add_RN, experts=experts_R, gates=gates_R,
            ACTIVE=active,
        )  # fmt: skip
    return y_RN


def start(
    codes: Codes,
    weight: IntegerWeight,
    y: Tensor,
    grid: tuple[int, ...],
    cut: Cut,
    *,
    TOKENS: int,
    add: Tensor | None = None,
    experts: Tensor | None = None,
    gates: Tensor | None = None,
    ACTIVE: int = 0,
) -> None:
    """Start the kernel; what is not there is stood in for by y, which is then not read."""
    assert add is None or add.is_contiguous(), "rows of what is added are one behind the other"
    is_four, width = isinstance(weight, Int4Weight), codes.codes_TCW.shape[-1]
    multipliers = word_view(weight.multipliers) if isinstance(weight, Int4Weight) else y
    launch(
        few_kernel, grid,
        codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, len(codes),
        y if experts is None else experts, y if gates is None else gates,
        weight.codes.view(torch.int32), multipliers, weight.scales, y if add is None else add, y,
        weight.shape[-2], weight.scales.shape[-1],
        WIDTH=width, FOUR=is_four, TOKENS=TOKENS, ROWS=cut.rows, LANES=32 * cut.warps,
        STEPS=cut.steps, ACTIVE=ACTIVE, HAS_GATES=gates is not None, HAS_ADD=add is not None, TARGET=target(),
        **options(y.device), **registers(cut, TOKENS, width, is_four), num_warps=cut.warps, enable_fp_fusion=False,
    )  # fmt: skip


def word_view(multipliers: Tensor) -> Tensor:
    """Multipliers as words of eight where rows are whole words (D64 a multiple of 256), else as they are."""
    return multipliers.view(torch.int32) if multipliers.shape[-1] % 4 == 0 else multipliers


@triton.jit
def few_kernel(
    x, scales_T, wide_T, tokens, experts_R, gates_R, codes, multipliers, scales_N, add, y, rows, stack_rows,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STEPS: tl.constexpr, ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr, HAS_ADD: tl.constexpr,
    TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the product of TOKENS tokens, or, when ACTIVE > 0, of one routed row with its expert."""
    release(EARLY)
    first = tl.program_id(0) * ROWS
    row = first.to(tl.int64)
    if ACTIVE > 0:
        routed = tl.program_id(1)
        token, expert = find_row(experts_R, routed, ACTIVE, EARLY)
        row += expert * stack_rows
        x += token * (WIDTH // 2)
        scales_T += token
        wide_T += token
        gates_R += routed
        y += routed.to(tl.int64) * rows
        add += routed.to(tl.int64) * rows
    codes += row * (WIDTH // 8 if FOUR else WIDTH // 4)
    multipliers += row * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
    held = hold(codes, multipliers, 0, WIDTH, FOUR, ROWS, LANES, STEPS, TARGET)
    scales = read_each(scales_N + row, ROWS, ROWS)
    wait(EARLY)
    added = read_added(add + first, tokens, rows - first, rows, TOKENS, ROWS, HAS_ADD)
    gate = tl.load(gates_R) if HAS_GATES else 1.0
    products = integer_products(
        held, scales, x, scales_T, wide_T, tokens, gate, codes, multipliers,
        WIDTH, FOUR, TOKENS, ROWS, LANES, STEPS, TARGET,
    )  # fmt: skip
    for index in tl.static_range(TOKENS * ROWS):
        place = index % TOKENS * rows + first + index // TOKENS
        is_there = (index % TOKENS < tokens) & (first + index // TOKENS < rows)
        product = products[index]
        if HAS_ADD:
            product += added[index]
        tl.store(y + place, product, mask=is_there)


@triton.jit
def read_added(
    add, tokens, left, stride, TOKENS: tl.constexpr, ROWS: tl.constexpr, HAS_ADD: tl.constexpr
):  # fmt: skip
    """What is added to each product: read before them, so that the end does not wait for it. `left` rows are left."""
    found = ()
    if HAS_ADD:
        for index in tl.static_range(TOKENS * ROWS):
            is_there = (index % TOKENS < tokens) & (index // TOKENS < left)
            place = index % TOKENS * stride + index // TOKENS
            found = found + (tl.load(add + place, mask=is_there, other=0.0),)  # noqa: RUF005
    return found


@triton.jit
def integer_products(
    held, row_scales, x, scales_T, wide_T, tokens, gate, codes, multipliers,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STEPS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Products of TOKENS tokens with ROWS rows, row after row, a tuple of float32. `held`: their weights, by `hold`.

    The second row of codes has a pass of its own, over weights that are still in a cache, so that it costs nothing
    when nobody is wide. Scales are read before the codes, so that the end does not wait for them.
    """
    wide = read_each(wide_T, tokens, TOKENS)
    scales = read_each(scales_T, tokens, TOKENS), row_scales
    is_wide = wide[0]
    for slot in tl.static_range(1, TOKENS):
        is_wide |= wide[slot]
    sums = integer_sums(held, x, tokens, codes, multipliers, WIDTH, FOUR, TOKENS, ROWS, LANES, STEPS, TARGET)
    products = scaled(sums, scales, 1.0, gate, TOKENS, ROWS)
    if is_wide != 0:
        again = hold(codes, multipliers, 0, WIDTH, FOUR, ROWS, LANES, 1, TARGET)
        sums = integer_sums(
            again, x + WIDTH // 4, tokens, codes, multipliers, WIDTH, FOUR, TOKENS, ROWS, LANES, 1, TARGET
        )
        rests = scaled(sums, scales, _REST, gate, TOKENS, ROWS)
        wider = ()
        for index in tl.static_range(TOKENS * ROWS):
            both = products[index] + rests[index]
            wider = wider + (tl.where(wide[index % TOKENS] != 0, both, products[index]),)  # noqa: RUF005
        products = wider
    return products


@triton.jit
def read_each(pointer, count, MOST: tl.constexpr):
    """MOST numbers one after the other, as a tuple; from `count` on the last one again and again."""
    found = ()
    for index in tl.static_range(MOST):
        found = found + (tl.load(pointer + tl.minimum(index, count - 1)),)  # noqa: RUF005
    return found


@triton.jit
def scaled(sums, scales, factor, gate, TOKENS: tl.constexpr, ROWS: tl.constexpr):
    """float(sum) * (x_scale * w_scale) of each token and row, a tuple of float32."""
    products = ()
    for index in tl.static_range(TOKENS * ROWS):
        s = scales[0][index % TOKENS] * factor * gate
        products = products + (sums[index].to(tl.float32) * (s * scales[1][index // TOKENS]),)  # noqa: RUF005
    return products


_ARGUMENTS = (
    "x:*i32 scales_T:*fp32 wide_T:*i32 tokens:i32 experts_R:*i32 gates_R:*fp32 codes:*i32 multipliers:*i32"
    " scales_N:*fp32 add:*fp32 y:*fp32 rows:i32:16 stack_rows:i32:16"
)
_CONSTANTS: dict[str, Any] = {
    "WIDTH": 5120, "FOUR": True, "TOKENS": 1, "ROWS": 4, "LANES": 32, "STEPS": 5, "ACTIVE": 0, "HAS_GATES": False,
    "HAS_ADD": False,
}  # fmt: skip
_CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "one token": ({}, 144),
    "one token, added": ({"HAS_ADD": True}, 144),
    "one token, 8192 columns": ({"WIDTH": 8192, "ROWS": 2, "STEPS": 8}, 128),
    "two tokens": ({"TOKENS": 2}, 160),
    "routed": ({"ACTIVE": 1, "HAS_GATES": True}, 144),
    "eight tokens": ({"TOKENS": 8, "ROWS": 2, "STEPS": 1}, 152),
    "int8": ({"FOUR": False, "ROWS": 2, "STEPS": 10}, 144),
}
SIGNATURES = {
    name: Signature(
        kernel=few_kernel, arguments=_ARGUMENTS, constants=_CONSTANTS | changes, warps=1, fusion=False, registers=most,
    )
    for name, (changes, most) in _CHANGES.items()
}  # fmt: skip
"""What test_compiles watches."""
