"""Float products of a few rows: y_r = W x_r, where reading W is what takes the time.

A program takes some rows of W and all of their columns, a thread 16 bytes of a row at a time. Products are added up in
the thread first, then across threads at the end, so a sum has the same order whatever else is in the batch.
Activations are used as they are, float32 or bfloat16; values of W are exact in float32, sums are float32.
Four-bit weights have kernels of their own (group4_few.py).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.fp8 import decode_apart, decode_fp8, decode_words, has_fp8
from twofold.backends.gpu.kernels.group4_few import Rows, Tiling, launch_group4
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.kernels.tiles import find_row, read_tile
from twofold.backends.gpu.weights import DenseWeight, Fp8Weight, Group4Weight

FloatWeight: TypeAlias = DenseWeight | Fp8Weight | Group4Weight

MOST_TOKENS = 4
"""More are faster by tiles: on an H100 8 tokens took 87 us here and 55 us there, for what one token took 57."""
LOAD_BYTES = 16
"""What a thread loads at once."""
CONFIGS = (Tiling(2, 2048, 4), Tiling(4, 2048, 4), Tiling(4, 1024, 2), Tiling(2, 1024, 2), Tiling(4, 512, 1))
"""What a sweep tries."""


@triton.jit
def values_of(raw, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FORMAT: tl.constexpr, NATIVE: tl.constexpr):
    """float32 values of what was read of a weight. FORMAT: "dense", "words" of four float8, "bytes" of one."""
    if FORMAT == "dense":
        values = raw.to(tl.float32)
    elif FORMAT == "words":
        values = decode_words(raw, ROWS, COLUMNS, NATIVE)
    else:
        values = decode_fp8(raw, NATIVE)
    return values


@triton.jit
def read_four(pointers, TARGET: tl.constexpr):
    """Four float32 at each pointer (a multiple of 16 bytes), by one load and without leaving the thread that asks.

    Triton's own loads are laid out for the memory, and what they bring changes threads through shared memory. This one
    has no order but its operands': what it must not overtake has to be among them.
    """
    if TARGET == "cuda":
        return tl.inline_asm_elementwise(
            "ld.global.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,l", [pointers.to(tl.int64)],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
        )  # fmt: skip
    return tl.load(pointers), tl.load(pointers + 1), tl.load(pointers + 2), tl.load(pointers + 3)


@triton.jit
def add_words(sums, raw, pointers, NATIVE: tl.constexpr, TARGET: tl.constexpr):
    """sums [ROWS, W] + the products of words of four float8 [ROWS, W] with the four float32 at each pointer [W]."""
    first, second, third, fourth = decode_apart(raw, NATIVE)
    x_first, x_second, x_third, x_fourth = read_four(pointers[None, :], TARGET)
    sums += first * x_first
    sums += second * x_second
    sums += third * x_third
    return sums + fourth * x_fourth


@triton.jit
def add_tile(
    sums, raw, x_row, x_stride, start,
    D: tl.constexpr, FORMAT: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PER_LOAD: tl.constexpr, DIRECT: tl.constexpr, NATIVE: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """The sums of every token with the products of a tile, which begins at column `start`."""
    grown = ()
    if DIRECT:
        for t in tl.static_range(TOKENS):
            pointers = x_row + t * x_stride + start + tl.arange(0, COLUMNS // 4) * 4
            grown = grown + (add_words(sums[t], raw, pointers, NATIVE, TARGET),)  # noqa: RUF005
    else:
        column = start + tl.arange(0, COLUMNS)
        w = values_of(raw, ROWS, COLUMNS, FORMAT, NATIVE)
        for t in tl.static_range(TOKENS):
            x_D = read_tile(x_row + t * x_stride + column, column < D, D % COLUMNS != 0).to(tl.float32)
            products = tl.reshape(w * x_D[None, :], [ROWS, COLUMNS // PER_LOAD, PER_LOAD])
            grown = grown + (sums[t] + tl.sum(products, axis=2),)  # noqa: RUF005
    return grown


@triton.jit
def few_kernel(
    x, weight, scales, experts, gates, add, y, N, x_stride, add_stride,
    D: tl.constexpr, FORMAT: tl.constexpr, TOKENS: tl.constexpr, ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr,
    HAS_ADD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PER_LOAD: tl.constexpr,
    NATIVE: tl.constexpr, DIRECT: tl.constexpr, TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x_TD f32 | bf16; weight [E, N, D] f32 | bf16 | uint8, or its words; scales_EN f32 (fp8); add_TN, y_TN f32.

    ACTIVE 0: one weight, all TOKENS at once. Otherwise program axis 1 is row r of y: x row r // ACTIVE (TOKENS is 1)
    times expert experts_R[r], scaled by gates_R[r]. DIRECT: threads read x for themselves (words, x f32, no tail).
    """
    row = tl.minimum(tl.program_id(0) * ROWS + tl.arange(0, ROWS), N - 1)
    out = tl.program_id(1)
    release(EARLY)
    token, expert = find_row(experts, out, ACTIVE, EARLY)
    weight_row = expert * N + row
    x_row = x + token * x_stride
    nothing = tl.zeros([ROWS, COLUMNS // (4 if DIRECT else PER_LOAD)], tl.float32)
    sums = (nothing,)
    for _ in tl.static_range(TOKENS - 1):
        sums = sums + (nothing,)  # noqa: RUF005
    ITEMS: tl.constexpr = 4 if FORMAT == "words" else 1
    place = tl.arange(0, COLUMNS // ITEMS)
    tile = weight + (weight_row * (D // ITEMS))[:, None] + place[None, :]
    raw = read_tile(tile, (place < D // ITEMS)[None, :], COLUMNS > D)
    if ACTIVE == 0:
        zero = wait(EARLY)
        if DIRECT:
            x_row += zero
    for start in range(0, D, COLUMNS):
        after = (start + COLUMNS) // ITEMS  # what comes next is under way while this is multiplied
        following = tl.load(tile + after, mask=(after + place < D // ITEMS)[None, :], other=0.0)
        sums = add_tile(sums, raw, x_row, x_stride, start, D, FORMAT, TOKENS, ROWS, COLUMNS, PER_LOAD, DIRECT, NATIVE,
                        TARGET)  # fmt: skip
        raw = following
    for t in tl.static_range(TOKENS):
        result = tl.sum(sums[t], axis=1)
        if FORMAT != "dense":
            result *= tl.load(scales + weight_row)
        if HAS_GATES:
            result *= tl.load(gates + out)
        if HAS_ADD:
            result += tl.load(add + (out + t) * add_stride + row).to(tl.float32)
        tl.store(y + tl.cast(out + t, tl.int64) * N + row, result)


def is_aligned(x_TD: Tensor) -> bool:
    """Whether every fourth number of every row can be read with the three behind it by one load."""
    whole = x_TD.dtype == torch.float32 and x_TD.stride(0) % 4 == 0
    return whole and x_TD.data_ptr() % LOAD_BYTES == 0


def choose(item_bytes: int, tokens: int) -> Tiling:
    """The tiling for values of so many bytes and so many tokens at once.

    On an H100 (benchmarks/gpu) two rows and four warps were best for bfloat16, four rows and two warps for float8.
    """
    if item_bytes == 1:
        return Tiling(4, 1024, 2)
    return Tiling(2 if tokens == 1 else 4, 2048, 4)


def few(x_TD: Tensor, weight: FloatWeight, add_TN: Tensor | None = None, tiling: Tiling | None = None) -> Tensor:
    """W x (+ add) of a few tokens, MOST_TOKENS or not many more, float32 [T, N]; W is read once for all of them.

    x is float32 or bfloat16, add float32; their rows may be strided, their columns not.
    """
    y_TN = torch.empty(len(x_TD), weight.shape[0], dtype=torch.float32, device=x_TD.device)
    if len(x_TD):
        start(Rows(x_TD=x_TD, y_RN=y_TN, add_RN=add_TN), weight, tiling)
    return y_TN


def few_routed(
    x_TD: Tensor,
    active: int,
    experts_R: Tensor,
    gates_R: Tensor | None,
    weight: FloatWeight,
    tiling: Tiling | None = None,
    add_RN: Tensor | None = None,
) -> Tensor:
    """Row r of the result is gate r times expert r times x row r // active (+ add): float32 [R, N].

    experts_R int32, gates_R float32, add_RN float32. Every row reads its expert for itself.
    """
    y_RN = torch.empty(len(experts_R), weight.shape[1], dtype=torch.float32, device=x_TD.device)
    if len(experts_R):
        rows = Rows(x_TD=x_TD, y_RN=y_RN, add_RN=add_RN, active=active, experts_R=experts_R, gates_R=gates_R)
        start(rows, weight, tiling)
    return y_RN


def start(rows: Rows, weight: FloatWeight, tiling: Tiling | None) -> None:
    """Start the kernel for this format."""
    if isinstance(weight, Group4Weight):
        launch_group4(rows, weight, tiling)
        return
    values, kind, columns = weight.values, "dense", weight.shape[-1]
    item_bytes = values.element_size()
    if isinstance(weight, Fp8Weight):
        kind = "words" if columns % 4 == 0 else "bytes"
        values = values.view(torch.int32 if kind == "words" else torch.uint8)
    tiling = tiling or choose(item_bytes, rows.tokens)
    tile_columns = tiling.row_bytes // item_bytes
    grid = (cdiv(weight.shape[-2], tiling.rows), rows.programs)
    launch(
        few_kernel,
        grid,
        rows.x_TD,
        values,
        weight.scales if isinstance(weight, Fp8Weight) else values,
        *rows.arguments(),
        weight.shape[-2],
        rows.x_TD.stride(0),
        0 if rows.add_RN is None else rows.add_RN.stride(0),
        D=columns,
        FORMAT=kind,
        NATIVE=has_fp8(values.device),
        **rows.constants(),
        ROWS=tiling.rows,
        COLUMNS=tile_columns,
        PER_LOAD=LOAD_BYTES // item_bytes,
        DIRECT=kind == "words" and columns % tile_columns == 0 and is_aligned(rows.x_TD),
        TARGET=target(),
        **options(values.device),
        num_warps=tiling.warps,
    )


_ARGUMENTS = (
    "x:*fp32 weight:*{} scales:*fp32 experts:*i32 gates:*fp32 add:*fp32 y:*fp32 N:i32:16 x_stride:i32:16"
    " add_stride:i32:16"
)
_CONSTANTS = {"D": 5120, "ACTIVE": 0, "HAS_GATES": False, "HAS_ADD": True, "COLUMNS": 1024}
SIGNATURES = {
    name: Signature(
        kernel=few_kernel,
        arguments=_ARGUMENTS.format("bf16" if kind == "dense" else "i32"),
        constants=_CONSTANTS
        | {
            "FORMAT": kind,
            "DIRECT": kind == "words",
            "PER_LOAD": 8 if kind == "dense" else 16,
            "ROWS": rows,
        }
        | changes,
        warps=4 if kind == "dense" else 2,
    )
    for name, kind, rows, changes in (
        ("one token, bfloat16", "dense", 2, {"TOKENS": 1}),
        ("four tokens, bfloat16", "dense", 4, {"TOKENS": 4}),
        ("one token, float8", "words", 4, {"TOKENS": 1}),
        ("four tokens, float8", "words", 4, {"TOKENS": 4}),
        ("an expert, bfloat16", "dense", 2, {"TOKENS": 1, "ACTIVE": 1, "HAS_GATES": True, "HAS_ADD": False}),
    )
}
"""What test_compiles watches."""
