"""Activations as int8 codes (ops.activations), with what comes before them: the norm, or the gated non-linearity.

One program takes a token, in registers from its first reading on; the columns lie in rows of 128, the stretches whose
reach decides whether the token is wide. All in float32 as the specification writes it, without fused multiply-adds, so
that codes and scales of the same values agree bit for bit with every other backend.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import ROUNDER, Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.signature import Signature
from twofold.ops.activations import BLOCK_COLUMNS, REST_STEPS, WIDE_RATIO
from twofold.ops.layout import COLUMN_STEP, padded

_ROUNDER = tl.constexpr(ROUNDER)
_COLUMNS = tl.constexpr(BLOCK_COLUMNS)
_WIDE_RATIO = tl.constexpr(WIDE_RATIO)
_REST_STEPS = tl.constexpr(REST_STEPS)
_OUTWEIGHS = tl.constexpr(1 << 21)


def quantize(x_TD: Tensor) -> Codes:
    """Codes of every token; x_TD float32 or bfloat16, its rows any stride apart."""
    tokens, columns = x_TD.shape
    codes = empty_codes(tokens, columns, x_TD.device)
    if tokens:
        quantize_kernel[(tokens,)](
            x_TD, codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, x_TD.stride(0), columns,
            GATED=False, **sizes(codes),
        )  # fmt: skip
    return codes


def swiglu_quantize(gate_up_RN: Tensor) -> Codes:
    """Codes of silu(first half of the columns) * second half; float32 or bfloat16, its rows any stride apart."""
    tokens, columns = gate_up_RN.shape[0], gate_up_RN.shape[1] // 2
    codes = empty_codes(tokens, columns, gate_up_RN.device)
    if tokens:
        quantize_kernel[(tokens,)](
            gate_up_RN, codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, gate_up_RN.stride(0), columns,
            GATED=True, **sizes(codes),
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
        norm_quantize_kernel[(tokens,)](
            x_TD, x_TD if add_TD is None else add_TD, weight_D, sum_TD, y_TD,
            codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, columns, epsilon,
            HAS_ADD=add_TD is not None, **sizes(codes),
        )  # fmt: skip
    return sum_TD, y_TD, codes


def empty_codes(tokens: int, columns: int, device: torch.device) -> Codes:
    """Room for the codes of so many tokens."""
    return Codes(
        torch.empty(tokens, 2, padded(columns, COLUMN_STEP), dtype=torch.int8, device=device),
        torch.empty(tokens, device=device),
        torch.empty(tokens, dtype=torch.int32, device=device),
    )


def sizes(codes: Codes) -> dict[str, int | bool]:
    """What all kernels here are compiled for: the stretches of a token, and warps with at most 64 values a thread."""
    width = codes.codes_TCW.shape[-1]
    stretches = triton.next_power_of_2(triton.cdiv(width, BLOCK_COLUMNS))
    warps = min(32, max(4, stretches * BLOCK_COLUMNS // (32 * 16)))
    launched = options(codes.scales_T.device)
    return {"WIDTH": width, "STRETCHES": stretches, "num_warps": warps, "enable_fp_fusion": False, **launched}


@triton.jit
def quantize_kernel(
    x, codes, scales_T, wide_T, stride, columns,
    GATED: tl.constexpr, WIDTH: tl.constexpr, STRETCHES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One token's codes."""
    release(EARLY)
    wait(EARLY)
    token = tl.program_id(0)
    places_BC = tl.arange(0, STRETCHES)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    is_there_BC = places_BC < columns
    x += token.to(tl.int64) * stride
    x_BC = tl.load(x + places_BC, mask=is_there_BC, other=0.0).to(tl.float32)
    if GATED:
        up_BC = tl.load(x + columns + places_BC, mask=is_there_BC, other=0.0).to(tl.float32)
        small_BC = tl.exp(-tl.abs(x_BC))
        x_BC = x_BC * tl.div_rn(tl.where(x_BC >= 0, 1.0, small_BC), 1.0 + small_BC) * up_BC
    store_codes(x_BC, codes, scales_T, wide_T, token, WIDTH)


@triton.jit
def norm_quantize_kernel(
    x, add, weight_D, sums, y, codes, scales_T, wide_T, columns, epsilon,
    HAS_ADD: tl.constexpr, WIDTH: tl.constexpr, STRETCHES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One token's sum, norm and codes."""
    release(EARLY)
    token = tl.program_id(0)
    places_BC = tl.arange(0, STRETCHES)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    is_there_BC = places_BC < columns
    start = token.to(tl.int64) * columns
    weight_BC = tl.load(weight_D + places_BC, mask=is_there_BC, other=0.0).to(tl.float32)
    wait(EARLY)
    x_BC = tl.load(x + start + places_BC, mask=is_there_BC, other=0.0)
    if HAS_ADD:
        x_BC += tl.load(add + start + places_BC, mask=is_there_BC, other=0.0)
        tl.store(sums + start + places_BC, x_BC, mask=is_there_BC)
    mean = tl.div_rn(tl.sum(x_BC * x_BC), columns.to(tl.float32))
    y_BC = x_BC * tl.div_rn(1.0, tl.sqrt_rn(mean + epsilon)) * weight_BC
    tl.store(y + start + places_BC, y_BC, mask=is_there_BC)
    store_codes(y_BC, codes, scales_T, wide_T, token, WIDTH)


@triton.jit
def store_codes(x_BC, codes, scales_T, wide_T, token, WIDTH: tl.constexpr):
    """Scale, both rows of codes and whether the second one counts; x_BC is zero behind the columns."""
    most_B = tl.max(tl.abs(x_BC), axis=1)
    most = tl.max(most_B, axis=0)
    scale = tl.div_rn(most, 127.0)
    inverse = tl.where(scale > 0, tl.div_rn(1.0, tl.where(scale > 0, scale, 1.0)), 0.0)
    units_BC = x_BC * inverse
    first_BC = tl.minimum(tl.maximum(rounded(units_BC), -127.0), 127.0)
    rest_BC = tl.minimum(tl.maximum(rounded((units_BC - first_BC) * _REST_STEPS), -128.0), 127.0)
    codes += token.to(tl.int64) * (WIDTH // 2)
    store_words(codes, first_BC, WIDTH)
    store_words(codes + WIDTH // 4, rest_BC, WIDTH)
    # one sum for both reasons: a stretch that is small outweighs all the codes that are not zero
    balance_BC = 2 * (first_BC != 0).to(tl.int32) - (x_BC != 0).to(tl.int32)
    is_small_B = (most_B * _WIDE_RATIO < most) & (most_B > 0)
    balance_B = tl.sum(balance_BC, axis=1) - tl.where(is_small_B, _OUTWEIGHS, 0)
    tl.store(scales_T + token, scale)
    tl.store(wide_T + token, (tl.sum(balance_B, axis=0) < 0).to(tl.int32))


@triton.jit
def store_words(codes, q_BC, WIDTH: tl.constexpr):
    """Integers from -128 to 127 as int8, packed in words: four neighbours are in one thread as they are."""
    STRETCHES: tl.constexpr = q_BC.shape[0]
    q_BW4 = tl.reshape(q_BC.to(tl.int32) & 255, (STRETCHES, _COLUMNS // 4, 4))
    words_BW = tl.sum(q_BW4 << (8 * tl.arange(0, 4))[None, None, :], axis=2)
    places_BW = tl.arange(0, STRETCHES)[:, None] * (_COLUMNS // 4) + tl.arange(0, _COLUMNS // 4)[None, :]
    tl.store(codes + places_BW, words_BW, mask=places_BW < WIDTH // 4)


@triton.jit
def rounded(x):
    """The nearest integer, half to even, of a float32 below 2^22."""
    return (x + _ROUNDER) - _ROUNDER


SIGNATURES = {
    "swiglu": Signature(
        kernel=quantize_kernel,
        arguments="x:*bf16 codes:*i32 scales_T:*fp32 wide_T:*i32 stride:i32:16 columns:i32:16",
        constants={"GATED": True, "WIDTH": 8192, "STRETCHES": 64}, warps=16, fusion=False,
    ),
    "norm": Signature(
        kernel=norm_quantize_kernel,
        arguments="x:*fp32 add:*fp32 weight_D:*fp32 sums:*fp32 y:*fp32 codes:*i32 scales_T:*fp32 wide_T:*i32"
        " columns:i32:16 epsilon:fp32",
        constants={"HAS_ADD": True, "WIDTH": 5120, "STRETCHES": 64}, warps=16, fusion=False,
    ),
}  # fmt: skip
"""What test_compiles watches."""
