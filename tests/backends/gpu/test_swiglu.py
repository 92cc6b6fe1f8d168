"""silu(gate) * up."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.float_weights import error
from twofold.backends.gpu.kernels.swiglu import swiglu
from twofold.ops import cases
from twofold.ops.reference import ReferenceOps


@pytest.mark.parametrize("case", list(cases.cases("swiglu")), ids=lambda case: case.name)
def test_halves_meet_as_in_the_reference(case: cases.Case) -> None:
    (expected,) = cases.run(case, ReferenceOps())
    got = swiglu(torch.from_numpy(case.tokens[0]))
    assert bool(got.isfinite().all())
    assert error(got, torch.from_numpy(expected)) <= case.tolerance.relative


def test_rows_may_be_strided_and_of_two_bytes() -> None:
    wide = torch.randn(5, 70, generator=torch.Generator().manual_seed(5)).bfloat16()
    got = swiglu(wide[:, :66], torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert error(got, swiglu(wide[:, :66].float().contiguous())) <= 2**-7  # the interpreter cuts off
    assert swiglu(wide[:0]).shape == (0, 35)
