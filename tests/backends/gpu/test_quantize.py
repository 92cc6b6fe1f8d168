"""Codes of activations, bit for bit, with and without what comes before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu import codes as plain
from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.quantize import norm_quantize, quantize, swiglu_quantize
from twofold.ops import cases
from twofold.ops.reference import ReferenceOps

REFERENCE = ReferenceOps()
SIZES = [(0, 5), (3, 1), (5, 64), (4, 300), (3, 1088), (2, 2150), (4, 5120)]


def are_same(one: Codes, other: Codes) -> bool:
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in vars(one))


@pytest.mark.parametrize(("tokens", "columns"), SIZES)
def test_codes_have_the_bits_of_the_specification(tokens: int, columns: int) -> None:
    x_TD = torch.from_numpy(cases.outliers(cases.generator(tokens, columns), tokens, columns))
    assert are_same(quantize(x_TD), plain.quantize(x_TD))
    assert are_same(quantize(x_TD.bfloat16()), plain.quantize(x_TD.bfloat16()))


def test_rows_of_a_wider_tensor_are_read_where_they_lie() -> None:
    wide = torch.from_numpy(cases.normal(cases.generator(7), 3, 100))
    assert are_same(quantize(wide[:, :70]), plain.quantize(wide[:, :70]))


@pytest.mark.parametrize(("tokens", "columns"), SIZES)
def test_codes_of_the_hidden_row_are_those_of_swiglu(tokens: int, columns: int) -> None:
    gate_up = cases.normal(cases.generator(tokens, columns), tokens, 2 * columns) * 4
    got = swiglu_quantize(torch.from_numpy(gate_up))
    want = REFERENCE.swiglu(gate_up)
    values = got.codes_TCW[:, 0, :columns].double() * got.scales_T[:, None]
    assert float((values - torch.from_numpy(want)).abs().max() if tokens else 0) <= 0.501 * float(got.scales_T.sum())
    assert torch.allclose(got.scales_T, plain.quantize(torch.from_numpy(want)).scales_T, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "columns"), SIZES)
def test_a_norm_gives_its_sum_itself_and_its_codes(tokens: int, columns: int) -> None:
    rng = cases.generator(tokens, columns)
    x_TD, add_TD, weight_D = (cases.normal(rng, *size) for size in ((tokens, columns), (tokens, columns), (columns,)))
    sum_TD, y_TD, codes = norm_quantize(
        *(torch.from_numpy(a) for a in (x_TD, weight_D)), 1e-5, torch.from_numpy(add_TD)
    )  # type: ignore[misc]
    assert np.array_equal(sum_TD.numpy(), x_TD + add_TD)
    assert are_same(codes, plain.quantize(y_TD))
    want = REFERENCE.unit_norm(x_TD + add_TD, 1e-5) * weight_D
    assert cases.error((y_TD.numpy(),), (want,)) <= cases.SQUARES.relative


def test_without_an_addend_the_sum_is_the_input() -> None:
    x_TD = torch.from_numpy(cases.normal(cases.generator(3), 2, 40))
    sum_TD, y_TD, codes = norm_quantize(x_TD, torch.ones(40), 1e-5)
    assert sum_TD is x_TD
    assert are_same(codes, plain.quantize(y_TD))


def test_a_norm_finds_rows_that_lie_apart() -> None:
    wide = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    apart, together = (norm_quantize(x_TD, torch.ones(60), 1e-5) for x_TD in (wide[:, :60], wide[:, :60].contiguous()))
    assert torch.equal(apart[1], together[1])
    assert torch.equal(apart[2].codes_TCW, together[2].codes_TCW)
