"""RMS norm by rows, with and without an addition before it."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.float_weights import error
from twofold.backends.gpu.kernels.norm import norm
from twofold.ops import cases
from twofold.ops.reference import ReferenceOps


@pytest.mark.parametrize("case", list(cases.cases("norm")), ids=lambda case: case.name)
def test_rows_are_normed_as_the_reference_does(case: cases.Case) -> None:
    x_TD, weight_D = torch.from_numpy(case.tokens[0]), torch.from_numpy(case.weights[0][1])
    (expected,) = cases.run(case, ReferenceOps())
    same, got = norm(x_TD, weight_D, *case.settings)
    assert same is x_TD
    assert error(got, torch.from_numpy(expected)) <= case.tolerance.relative


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_before_is_kept(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x_TD, add_TD = (torch.randn(4, 130, generator=generator)[:, :100].to(dtype) for _ in range(2))
    weight_D = torch.randn(100, generator=generator)
    total, got = norm(x_TD, weight_D, 1e-5, add_TD)
    assert torch.equal(total, x_TD.float() + add_TD.float())
    assert torch.equal(got, norm(total, weight_D, 1e-5)[1])


def test_a_norm_can_be_bfloat16() -> None:
    x_TD, weight_D = torch.randn(3, 40, generator=torch.Generator().manual_seed(4)), torch.ones(40)
    got = norm(x_TD, weight_D, 1e-5, out_dtype=torch.bfloat16)[1]
    assert got.dtype == torch.bfloat16
    assert error(got, norm(x_TD, weight_D, 1e-5)[1]) <= 2**-7  # the interpreter cuts off where devices round


def test_no_row_is_no_trouble() -> None:
    assert norm(torch.empty(0, 8), torch.ones(8), 1e-5)[1].shape == (0, 8)
