"""How many pairs of a token and an expert are worth another way."""

from __future__ import annotations

import torch

from tests.backends.gpu.integer_weights import routed
from twofold.backends.gpu.routed import WIDENED_FROM, wide_enough
from twofold.backends.gpu.weights import Int4Weight, Int8Weight, integer_rows, part


def test_stacks_are_widened_for_many_pairs_of_each_expert_and_keep_their_integers() -> None:
    stack = routed("int4", 1, 1, 3, 17, 96)[1]
    assert isinstance(stack, Int4Weight)
    assert wide_enough(stack, 3 * WIDENED_FROM - 1) is stack
    wide = wide_enough(stack, 3 * WIDENED_FROM)
    assert isinstance(wide, Int8Weight)
    for expert in range(3):
        before, after = part(stack, expert), part(wide, expert)
        assert isinstance(before, Int4Weight)
        assert isinstance(after, Int8Weight)
        assert torch.equal(integer_rows(after), integer_rows(before))


def test_eight_bits_stay_as_they_are() -> None:
    stack = routed("int8", 1, 1, 3, 17, 96)[1]
    assert wide_enough(stack, 1 << 20) is stack
