"""How many pairs of a token and an expert are worth another way."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.integer_weights import INTEGERS, Given, routed
from twofold.backends.gpu.kernels import integer_several
from twofold.backends.gpu.routed import SEVERAL, WIDENED_FROM, Call, Choice, experts, wide_enough
from twofold.backends.gpu.weights import Int4Weight, Int8Weight, integer_rows, part
from twofold.ops.packed import Format


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


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(("tokens", "active"), [(9, 1), (5, 2), (25, 1)])
def test_several_pairs_of_an_expert_give_the_bits_of_pairs_alone(
    form: Format, tokens: int, active: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, gate_up, experts_R, gates_R, _ = routed(form, tokens, active, 3, 4, 64)
    down = routed(form, 1, 1, 3, 3, 2)[1]
    x, given = Given(codes), (experts_R.reshape(tokens, active), gates_R.reshape(tokens, active))
    call = Call(x, Choice(lambda: given), active, gate_up, down)
    add_TD = torch.linspace(-1, 1, tokens * 3).reshape(tokens, 3)
    apart = experts(call, add_TD)
    assert not call.is_several
    monkeypatch.setattr(integer_several, "has_kernel", lambda _device: True)
    assert call.is_several == (tokens * active <= 3 * SEVERAL)
    assert torch.equal(experts(call, add_TD), apart)
