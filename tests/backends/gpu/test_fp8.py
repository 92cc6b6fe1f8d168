"""float8 e4m3: bits and values, rows quantised to it, and the library's product."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.backends.gpu.float_weights import activations, error, make
from twofold.backends.gpu.kernels.fp8 import decode_fp8, dense_many, encode_fp8, fits_library, quantize_fp8
from twofold.backends.gpu.weights import Fp8Weight, decode

BLOCK = 1024


@triton.jit
def through_bits(x, bits, values, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    made = encode_fp8(tl.load(x + place, mask=place < count, other=0.0))
    tl.store(bits + place, made, mask=place < count)
    tl.store(values + place, decode_fp8(made, False), mask=place < count)


def all_values() -> Tensor:
    """Every finite float8."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return values[values.isfinite()]


def test_bits_are_those_of_the_nearest_value() -> None:
    exact = all_values().sort().values
    between = (exact[:-1] + exact[1:]) / 2  # ties, and beside them
    x = torch.cat([exact, between, between * (1 + 2**-20), between * (1 - 2**-20), torch.linspace(-448, 448, 9999)])
    bits, values = torch.empty(len(x), dtype=torch.uint8), torch.empty(len(x))
    through_bits[(triton.cdiv(len(x), BLOCK),)](x, bits, values, len(x), BLOCK)
    expected = x.to(torch.float8_e4m3fn)
    assert torch.equal(values, expected.float())
    assert torch.equal(bits, expected.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_reaches_the_largest_float8(dtype: torch.dtype) -> None:
    x_TD = torch.cat([activations(4, 300), torch.zeros(1, 300)]).to(dtype)
    values, scales = quantize_fp8(x_TD)
    most = x_TD.float().abs().amax(dim=1, keepdim=True)
    assert torch.equal(scales, most / 448)
    assert values.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448, 0]  # rows 2 and 4 are zeros
    assert float(((values.float() * scales - x_TD.float()).abs() / most.clamp(min=1e-30)).max()) <= 16.001 / 448
    assert quantize_fp8(x_TD[:0])[1].shape == (0, 1)


def test_the_library_multiplies_what_was_quantised() -> None:
    x_TD, weight = activations(20, 64), make("fp8", 32, 64)
    assert isinstance(weight, Fp8Weight)
    assert fits_library(weight)
    values, scales = quantize_fp8(x_TD)
    expected = (values.double() * scales.double()) @ decode(weight).double().T
    got = dense_many(x_TD, weight)
    assert got.dtype == torch.bfloat16
    assert error(got, expected) <= 2**-8


def test_weights_of_odd_sizes_do_not_fit_the_library() -> None:
    odd = make("fp8", 33, 64)
    assert isinstance(odd, Fp8Weight)
    assert not fits_library(odd)
