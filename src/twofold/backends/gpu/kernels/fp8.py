"""float8 e4m3: decoding its bits, quantising rows to it, and the library's product of two float8 matrices.

A row has the scale s = max|x| / 448, and its values are x * (1 / s), rounded to the nearest.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import Fp8Weight

LARGEST = 448.0
LIBRARY_STEP = 16
"""Rows and columns of torch's product of float8 matrices are multiples of this."""


@triton.jit
def decode_fp8(bits, NATIVE: tl.constexpr):
    """float32 values of e4m3 bits (uint8); NATIVE: the target has an instruction for it.

    Otherwise the bits move to where float32 has its exponent and fraction, and the bias is made up for by 2^120:
    float32 has enough small values for all of e4m3. Its NaN is not looked for; no packer makes one.
    """
    if NATIVE:
        values = bits.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    else:
        wide = bits.to(tl.uint32)
        placed = ((wide & 0x80) << 24) | ((wide & 0x7F) << 20)
        values = placed.to(tl.float32, bitcast=True) * 1.329227995784916e36
    return values


_HALVES = tl.constexpr("{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.rn.f16x2.e4m3x2 $0, l; cvt.rn.f16x2.e4m3x2 $1, h; }")


@triton.jit
def low_half(words):
    """The float16 in the lower half of words, as float32."""
    return words.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def decode_byte(words, byte: tl.constexpr):
    """float32 of one byte of every word, as decode_fp8 gives it without an instruction for it."""
    return decode_fp8(((words >> (8 * byte)) & 0xFF).to(tl.uint8), False)


@triton.jit
def decode_words(words, ROWS: tl.constexpr, COLUMNS: tl.constexpr, NATIVE: tl.constexpr):
    """float32 values [ROWS, COLUMNS] of words [ROWS, COLUMNS / 4] of four e4m3 each.

    Words that wait in registers stay whole; bytes would be taken apart and put together again.
    """
    first, second, third, fourth = decode_apart(words, NATIVE)
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [ROWS, COLUMNS])


@triton.jit
def decode_apart(words, NATIVE: tl.constexpr):
    """float32 values of the first, second, third and fourth bytes of words."""
    if NATIVE:
        low, high = tl.inline_asm_elementwise(
            _HALVES, "=r,=r,r", [words], dtype=(tl.int32, tl.int32), is_pure=True, pack=1
        )
        first, second, third, fourth = low_half(low), low_half(low >> 16), low_half(high), low_half(high >> 16)
    else:
        first, second, third, fourth = (
            decode_byte(words, 0),
            decode_byte(words, 1),
            decode_byte(words, 2),
            decode_byte(words, 3),
        )
    return first, second, third, fourth


@triton.jit
def encode_fp8(x):
    """e4m3 bits (uint8) of float32 numbers up to 448, rounded to nearest, half to even, with integer instructions.

    Numbers below 2^-6 are counted in steps of 2^-9, by the rounding of an addition; others lose 20 bits of fraction.
    """
    bits = x.to(tl.uint32, bitcast=True)
    size = bits & 0x7FFFFFFF
    rounded = (size + 0x7FFFF + ((size >> 20) & 1)) >> 20
    usual = rounded - (120 << 3)
    steps = (tl.abs(x) + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    magnitude = tl.where(size < 0x3C800000, steps, usual)
    return (magnitude | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def quantize_fp8_kernel(x, values, scales, stride, D: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """x_TD f32 | bf16 with strided rows; values_TD uint8; scales_T f32. One program takes a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    release(EARLY)
    wait(EARLY)
    x_D = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x_D), axis=0), 448.0)
    inverse = tl.where(scale > 0, tl.div_rn(1.0, tl.where(scale > 0, scale, 1.0)), 0.0)
    bounded_D = tl.minimum(tl.maximum(x_D * inverse, -448.0), 448.0)
    bits_D = encode_fp8(bounded_D)
    tl.store(values + row * D + column, bits_D, mask=inside)
    tl.store(scales + row, scale)


def has_fp8(device: torch.device) -> bool:
    """Whether the device decodes and multiplies e4m3 by instructions that Triton uses: CUDA from 8.9 on.

    AMD's gfx942 has another kind of float8 and counts as a device without.
    """
    return target() == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def quantize_fp8(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Values float8 e4m3 [T, D] and scales float32 [T, 1] of rows that are float32 or bfloat16."""
    tokens, columns = x_TD.shape
    bits_TD = torch.empty(tokens, columns, dtype=torch.uint8, device=x_TD.device)
    scales_T = torch.empty(tokens, 1, dtype=torch.float32, device=x_TD.device)
    if tokens:
        launch(
            quantize_fp8_kernel,
            (tokens,),
            x_TD,
            bits_TD,
            scales_T,
            x_TD.stride(0),
            D=columns,
            BLOCK=power_from(columns),
            **options(x_TD.device),
            num_warps=8,
        )
    return bits_TD.view(torch.float8_e4m3fn), scales_T


def fits_library(weight: Fp8Weight) -> bool:
    """Whether torch's product takes this weight: its sizes are multiples of 16."""
    rows, columns = weight.shape
    return rows % LIBRARY_STEP == 0 and columns % LIBRARY_STEP == 0


def dense_many(x_TD: Tensor, weight: Fp8Weight) -> Tensor:
    """y_TN bfloat16 of a weight that `fits_library`: x is quantised to float8 row by row, sums are float32.

    For many tokens on CUDA from compute capability 8.9 on and on CPUs; other devices have no such product in torch.
    """
    values_TD, scales_T = quantize_fp8(x_TD)
    scales_N = weight.scales.reshape(1, -1)
    return torch._scaled_mm(values_TD, weight.values.t(), scale_a=scales_T, scale_b=scales_N, out_dtype=torch.bfloat16)


SIGNATURES = {
    "quantise 5120 columns": Signature(
        kernel=quantize_fp8_kernel,
        arguments="x:*fp32 values:*u8 scales:*fp32 stride:i32:16",
        constants={"D": 5120, "BLOCK": 8192},
        warps=8,
    )
}
"""What test_compiles watches."""
