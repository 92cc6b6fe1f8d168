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
    """As far as they are read: the second row of codes of wide tokens only."""
    is_wide_T = one.wide_T != 0
    return (
        torch.equal(one.wide_T, other.wide_T)
        and torch.equal(one.scales_T, other.scales_T)
        and torch.equal(one.codes_TCW[:, 0], other.codes_TCW[:, 0])
        and torch.equal(one.codes_TCW[is_wide_T], other.codes_TCW[is_wide_T])
    )


@pytest.mark.parametrize(("tokens", "columns"), SIZES)
def test_codes_have_the_bits_of_the_specification(tokens: int, columns: int) -> None:
    x_TD = torch.from_numpy(cases.outliers(cases.generator(tokens, columns), tokens, columns))
    assert are_same(quantize(x_TD), plain.quantize(x_TD))
    assert are_same(quantize(x_TD.bfloat16()), plain.quantize(x_TD.bfloat16()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, of the interpreter
@pytest.mark.parametrize("reach", [3e38, 1e-35, 3.8e-37, 3.7e-37, 1e-40, 1e-43, 3e-44])
def test_tokens_as_large_or_as_small_as_numbers_go_keep_the_bits(reach: float) -> None:
    x_TD = torch.from_numpy(cases.normal(cases.generator(8), 3, 700))
    x_TD = x_TD / x_TD.abs().max() * reach
    x_TD[0, ::3] = 0
    x_TD[1, 5:300] /= 50
    assert are_same(quantize(x_TD), plain.quantize(x_TD))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_codes_of_an_infinite_value_are_zero() -> None:
    x_TD = torch.ones(1, 200)
    x_TD[0, 3] = torch.inf
    found = quantize(x_TD)
    assert found.scales_T.tolist() == [torch.inf]
    assert not found.codes_TCW[:, 0].any()


def test_a_token_is_wide_when_most_of_what_is_not_zero_has_code_zero() -> None:
    x_TD = torch.full((4, 1000), 0.001)
    order_D = torch.randperm(1000, generator=torch.Generator().manual_seed(3))  # every stretch has some of all
    for token, (large, zeros) in enumerate(((500, 0), (499, 0), (100, 800), (99, 800))):
        x_TD[token, order_D[:large]] = 1
        x_TD[token, order_D[1000 - zeros :]] = 0
    found = quantize(x_TD)
    assert found.wide_T.tolist() == [0, 1, 0, 1]
    assert are_same(found, plain.quantize(x_TD))


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
    assert are_same(apart[2], together[2])
