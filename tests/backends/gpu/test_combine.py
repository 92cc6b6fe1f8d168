"""Sums over the experts of a token and what lies beside them."""

from __future__ import annotations

import pytest
import torch

from twofold.backends.gpu.kernels.combine import combine


@pytest.mark.parametrize("active", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 40, 1100])
def test_slots_are_added_in_their_order_and_then_the_rest(active: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(6)
    y_RN = torch.randn(3 * active, columns, generator=generator)
    first, second = (torch.randn(3, columns, generator=generator) for _ in range(2))
    expected = y_RN[0::active].clone()
    for slot in range(1, active):
        expected += y_RN[slot::active]
    assert torch.equal(combine(y_RN, active), expected)
    assert torch.equal(combine(y_RN, active, first), expected + first)
    assert torch.equal(combine(y_RN, active, None, second), expected + second)
    assert torch.equal(combine(y_RN, active, first, second), expected + first + second)


def test_rows_may_be_strided_and_of_two_bytes() -> None:
    wide = torch.randn(4, 50, generator=torch.Generator().manual_seed(7)).bfloat16()
    assert torch.equal(combine(wide[:, :40], 2), wide[0::2, :40].float() + wide[1::2, :40].float())
    assert combine(wide[:0], 2).shape == (0, 50)
