"""Activations as int8 codes (ops.activations), with what comes before them: the norm, or the gated non-linearity.

One program takes a token, in registers from its first reading on: in chunks of as many stretches as it has warps, a
stretch being the 128 columns whose reach decides whether the token is wide. So a warp holds whole stretches and a lane
four neighbours, which are a word of codes, and only the last chunk may have idle lanes. All in float32 as the
specification writes it, without fused multiply-adds, so that codes and scales of the same values agree bit for bit with
every other backend.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import ROUNDER, Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import lowest_bytes, nonzero_bytes, quotient, target
from twofold.ops.activations import BLOCK_COLUMNS, REST_STEPS, WIDE_RATIO
from twofold.ops.layout import COLUMN_STEP, padded

_ROUNDER = tl.constexpr(ROUNDER)
_COLUMNS = tl.constexpr(BLOCK_COLUMNS)
_WIDE_RATIO = tl.constexpr(WIDE_RATIO)
_REST_STEPS = tl.constexpr(REST_STEPS)
_OUTWEIGHS = tl.constexpr(1 << 21)


def quantize(x_TD: Tensor) -> Codes:
    """Codes of every token; x_TD float32 or bfloat16, its rows any stride apart.

    Here as below a second row of codes is only written where the token is wide; elsewhere it is whatever was there.
    """
    tokens, columns = x_TD.shape
    codes = empty_codes(tokens, columns, x_TD.device)
    if tokens:
        launch(
            quantize_kernel, (tokens,),
            x_TD, codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, x_TD.stride(0),
            GATED=False, **sizes(columns, x_TD.device),
        )  # fmt: skip
    return codes


def swiglu_quantize(gate_up_RN: Tensor) -> Codes:
    """Codes of silu(first half of the columns) * second half; float32 or bfloat16, its rows any stride apart."""
    tokens, columns = gate_up_RN.shape[0], gate_up_RN.shape[1] // 2
    codes = empty_codes(tokens, columns, gate_up_RN.device)
    if tokens:
        launch(
            quantize_kernel, (tokens,),
            gate_up_RN, codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, gate_up_RN.stride(0),
            GATED=True, **sizes(columns, gate_up_RN.device),
        )  # fmt: skip
    return codes


def norm_quantize(
    x_TD: Tensor, weight_D: Tensor, epsilon: float, add_TD: Tensor | None = None
) -> tuple[Tensor, Tensor, Codes]:
    """x + add (x itself without), its RMS norm y = x / sqrt(mean(x^2) + epsilon) * weight, and the codes of y.

    x_TD and add_TD float32 [T, D], add_TD contiguous; weight_D float32 or bfloat16. The first two results are float32.
    """
    x_TD = x_TD.contiguous()  # rows of a padded table are apart
    tokens, columns = x_TD.shape
    codes = empty_codes(tokens, columns, x_TD.device)
    y_TD = torch.empty(tokens, columns, device=x_TD.device)
    sum_TD = x_TD if add_TD is None else torch.empty(tokens, columns, device=x_TD.device)
    if tokens:
        launch(
            norm_quantize_kernel, (tokens,),
            x_TD, x_TD if add_TD is None else add_TD, weight_D, sum_TD, y_TD,
            codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, epsilon,
            HAS_ADD=add_TD is not None, **sizes(columns, x_TD.device),
        )  # fmt: skip
    return sum_TD, y_TD, codes


def empty_codes(tokens: int, columns: int, device: torch.device) -> Codes:
    """Room for the codes of so many tokens."""
    return Codes(
        torch.empty(tokens, 2, padded(columns, COLUMN_STEP), dtype=torch.int8, device=device),
        torch.empty(tokens, device=device),
        torch.empty(tokens, dtype=torch.int32, device=device),
    )


def sizes(columns: int, device: torch.device) -> dict[str, Any]:
    """What all kernels here are compiled for.

    A warp has four stretches where there are enough: few lanes idle, few warps have to agree. AMD's are twice as wide.
    """
    stretches = cdiv(columns, BLOCK_COLUMNS)
    assert stretches < 512, "twice so many _OUTWEIGHS are no int32"
    warps = min(16 if target() == "hip" else 32, max(4, power_from(stretches // 4 + 1) // 2))
    chunks = cdiv(stretches, warps)
    constants = {"COLUMNS": columns, "WIDTH": padded(columns, COLUMN_STEP), "STRETCHES": warps, "CHUNKS": chunks}
    return {**constants, "TARGET": target(), "num_warps": warps, "enable_fp_fusion": False, **options(device)}


@triton.jit
def quantize_kernel(
    x, codes, scales_T, wide_T, stride,
    GATED: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, STRETCHES: tl.constexpr, CHUNKS: tl.constexpr,
    TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One token's codes."""
    release(EARLY)
    wait(EARLY)
    token = tl.program_id(0)
    x += token.to(tl.int64) * stride
    x_BC, up_BC = x + places(STRETCHES), x + COLUMNS + places(STRETCHES)
    read, values = (), ()
    for chunk in tl.static_range(CHUNKS):
        x_part = load_chunk(x_BC, chunk, STRETCHES, COLUMNS)
        up_part = load_chunk(up_BC, chunk, STRETCHES, COLUMNS) if GATED else x_part
        read = read + ((x_part, up_part),)  # noqa: RUF005
    for chunk in tl.static_range(CHUNKS):
        x_BC = read[chunk][0].to(tl.float32)
        if GATED:
            small_BC = tl.exp(-tl.abs(x_BC))
            sigmoid_BC = quotient(tl.where(x_BC >= 0, 1.0, small_BC), 1.0 + small_BC, TARGET)
            x_BC = x_BC * sigmoid_BC * read[chunk][1].to(tl.float32)
        values = values + (x_BC,)  # noqa: RUF005
    store_codes(values, codes, scales_T, wide_T, token, COLUMNS, WIDTH, STRETCHES, CHUNKS, TARGET)


@triton.jit
def norm_quantize_kernel(
    x, add, weight_D, sums, y, codes, scales_T, wide_T, epsilon,
    HAS_ADD: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, STRETCHES: tl.constexpr, CHUNKS: tl.constexpr,
    TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One token's sum, norm and codes."""
    release(EARLY)
    token = tl.program_id(0)
    places_BC = places(STRETCHES)
    whole_BC = token.to(tl.int64) * COLUMNS + places_BC
    weights, read, values = (), (), ()
    for chunk in tl.static_range(CHUNKS):
        weights = weights + (load_chunk(weight_D + places_BC, chunk, STRETCHES, COLUMNS),)  # noqa: RUF005
    wait(EARLY)
    for chunk in tl.static_range(CHUNKS):
        x_BC = load_chunk(x + whole_BC, chunk, STRETCHES, COLUMNS)
        add_BC = load_chunk(add + whole_BC, chunk, STRETCHES, COLUMNS) if HAS_ADD else x_BC
        read = read + ((x_BC, add_BC),)  # noqa: RUF005
    squares_BC = tl.zeros((STRETCHES, _COLUMNS), tl.float32)
    for chunk in tl.static_range(CHUNKS):
        x_BC = read[chunk][0]
        if HAS_ADD:
            x_BC += read[chunk][1]
            store_chunk(sums + whole_BC, x_BC, chunk, STRETCHES, COLUMNS)
        squares_BC += x_BC * x_BC
        values = values + (x_BC,)  # noqa: RUF005
    mean = tl.div_rn(tl.sum(squares_BC), tl.full((), COLUMNS, tl.float32))
    factor = tl.div_rn(1.0, tl.sqrt_rn(mean + epsilon))
    normed = ()
    for chunk in tl.static_range(CHUNKS):
        y_BC = values[chunk] * factor * weights[chunk].to(tl.float32)
        store_chunk(y + whole_BC, y_BC, chunk, STRETCHES, COLUMNS)
        normed = normed + (y_BC,)  # noqa: RUF005
    store_codes(normed, codes, scales_T, wide_T, token, COLUMNS, WIDTH, STRETCHES, CHUNKS, TARGET)


@triton.jit
def store_codes(
    x, codes, scales_T, wide_T, token,
    COLUMNS: tl.constexpr, WIDTH: tl.constexpr, STRETCHES: tl.constexpr, CHUNKS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Scale, first row of codes, whether the second one counts, and then it too; x is zero behind the columns.

    Which columns are not zero is only counted where less than half of all codes are: else they cannot be too few.
    """
    most_B, least_B = tl.zeros((STRETCHES,), tl.int32), tl.full((STRETCHES,), -1, tl.int32).to(tl.uint32, bitcast=True)
    for chunk in tl.static_range(CHUNKS):
        reach_B = reach_of(x[chunk])
        most_B = tl.maximum(most_B, reach_B)
        least_B = tl.minimum(least_B, reach_B.to(tl.uint32, bitcast=True) - 1)  # zeros become the largest
    most = tl.max(most_B, axis=0).to(tl.float32, bitcast=True)
    scale = tl.div_rn(most, 127.0)
    inverse = tl.where(scale > 0, tl.div_rn(1.0, tl.where(scale > 0, scale, 1.0)), 0.0)
    words = ()
    for chunk in tl.static_range(CHUNKS):
        words = words + (packed(x[chunk] * inverse, TARGET),)  # noqa: RUF005
    if (most == float("inf")) | (inverse == float("inf")):
        tl.debug_barrier()  # so that no compiler computes both sides instead of branching
        words = limited_words(x, inverse, CHUNKS, TARGET)
    codes += token.to(tl.int64) * (WIDTH // 2)
    count_BW = tl.zeros((STRETCHES, _COLUMNS // 4), tl.int32)
    for chunk in tl.static_range(CHUNKS):
        store_words(codes, words[chunk], chunk, WIDTH)
        count_BW += nonzero_bytes(words[chunk], TARGET)
    least_B = (least_B + 1).to(tl.float32, bitcast=True)
    is_small_B = (least_B * _WIDE_RATIO < most) & (least_B > 0)
    # one sum for both reasons: a stretch that is small outweighs all the codes that are not zero
    balance = tl.sum(tl.sum(count_BW, axis=1) - tl.where(is_small_B, _OUTWEIGHS, 0), axis=0)
    is_wide = 2 * balance < COLUMNS
    if is_wide:
        is_wide = 2 * balance < count_values(x, STRETCHES, CHUNKS)
        for chunk in tl.static_range(CHUNKS):
            units_BC = x[chunk] * inverse
            first_BC = tl.minimum(tl.maximum(rounded(units_BC), -127.0), 127.0)
            rest_BC = tl.minimum(tl.maximum(rounded((units_BC - first_BC) * _REST_STEPS), -128.0), 127.0)
            rest_BC = tl.where(rest_BC == rest_BC, rest_BC, 0.0)
            store_words(codes + WIDTH // 4, packed(rest_BC, TARGET), chunk, WIDTH)
    tl.store(scales_T + token, scale)
    tl.store(wide_T + token, is_wide.to(tl.int32))


@triton.jit
def places(STRETCHES: tl.constexpr):
    """The columns of the first chunk, [B, C]: the others lie a constant behind it, which costs no instructions."""
    return tl.arange(0, STRETCHES)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]


@triton.jit
def load_chunk(pointers_BC, chunk: tl.constexpr, STRETCHES: tl.constexpr, COLUMNS: tl.constexpr):
    """What lies so many chunks behind the pointers, zero behind the columns."""
    START: tl.constexpr = chunk * STRETCHES * _COLUMNS
    return tl.load(pointers_BC + START, mask=places(STRETCHES) < COLUMNS - START, other=0.0)


@triton.jit
def store_chunk(pointers_BC, x_BC, chunk: tl.constexpr, STRETCHES: tl.constexpr, COLUMNS: tl.constexpr):
    """The same the other way round."""
    START: tl.constexpr = chunk * STRETCHES * _COLUMNS
    tl.store(pointers_BC + START, x_BC, mask=places(STRETCHES) < COLUMNS - START)


@triton.jit
def reach_of(x_BC):
    """max|x| of every stretch as bits: of int32 a warp finds the largest in one instruction."""
    most_BW = tl.max(tl.reshape(tl.abs(x_BC), (x_BC.shape[0], _COLUMNS // 4, 4)), axis=2)
    return tl.max(most_BW.to(tl.int32, bitcast=True), axis=1)


@triton.jit
def limited_words(x, inverse, CHUNKS: tl.constexpr, TARGET: tl.constexpr):
    """The codes of a token so small or so large that its inverse scale is infinite or zero.

    All others need no limits: three roundings, off by 2^-22 at most, do not lift the largest one from 127 to 127.5.
    """
    words = ()
    for chunk in tl.static_range(CHUNKS):
        units_BC = x[chunk] * inverse
        within_BC = tl.minimum(tl.maximum(units_BC, -127.0), 127.0)
        words = words + (packed(tl.where(units_BC == units_BC, within_BC, 0.0), TARGET),)  # noqa: RUF005
    return words


@triton.jit
def count_values(x, STRETCHES: tl.constexpr, CHUNKS: tl.constexpr):
    """How many are not zero."""
    count_BC = tl.zeros((STRETCHES, _COLUMNS), tl.int32)
    for chunk in tl.static_range(CHUNKS):
        count_BC += (x[chunk] != 0).to(tl.int32)
    return tl.sum(tl.sum(count_BC, axis=1), axis=0)


@triton.jit
def packed(x_BC, TARGET: tl.constexpr):
    """The nearest integers, -128 to 127, as int8 in words [B, C/4]: the lowest bytes of the sums with ROUNDER."""
    lifted_BC = (x_BC + _ROUNDER).to(tl.int32, bitcast=True)
    even_BW2, odd_BW2 = tl.split(tl.reshape(lifted_BC, (x_BC.shape[0], _COLUMNS // 4, 2, 2)))
    first_BW, third_BW = tl.split(even_BW2)
    second_BW, fourth_BW = tl.split(odd_BW2)
    return lowest_bytes(first_BW, second_BW, third_BW, fourth_BW, TARGET)


@triton.jit
def store_words(codes, words_BW, chunk: tl.constexpr, WIDTH: tl.constexpr):
    """Words of a chunk to their place in a row."""
    STRETCHES: tl.constexpr = words_BW.shape[0]
    stretches_B = chunk * STRETCHES + tl.arange(0, STRETCHES)
    places_BW = stretches_B[:, None] * (_COLUMNS // 4) + tl.arange(0, _COLUMNS // 4)[None, :]
    tl.store(codes + places_BW, words_BW, mask=places_BW < WIDTH // 4)


@triton.jit
def rounded(x):
    """The nearest integer, half to even, of a float32 below 2^22."""
    return (x + _ROUNDER) - _ROUNDER


SIGNATURES = {
    "swiglu": Signature(
        kernel=quantize_kernel,
        arguments="x:*bf16 codes:*i32 scales_T:*fp32 wide_T:*i32 stride:i32:16",
        constants={"GATED": True, "COLUMNS": 8192, "WIDTH": 8192, "STRETCHES": 16, "CHUNKS": 4}, warps=16, fusion=False,
    ),
    "norm": Signature(
        kernel=norm_quantize_kernel,
        arguments="x:*fp32 add:*fp32 weight_D:*fp32 sums:*fp32 y:*fp32 codes:*i32 scales_T:*fp32 wide_T:*i32"
        " epsilon:fp32",
        constants={"HAS_ADD": True, "COLUMNS": 5120, "WIDTH": 5120, "STRETCHES": 8, "CHUNKS": 5}, warps=8, fusion=False,
    ),
}  # fmt: skip
"""What test_compiles watches."""
