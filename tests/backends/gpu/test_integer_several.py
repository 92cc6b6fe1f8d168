"""Integer products of several tokens by the matrix units, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.gpu.integer_weights import INTEGERS, beyond_32_bits, product, routed
from twofold.backends.gpu.kernels.integer_several import MOST_STEPS, Share, choose, several, several_routed
from twofold.backends.gpu.kernels.order import order
from twofold.ops.packed import Format


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(0, 5, 64), (1, 1, 1), (3, 17, 300), (8, 33, 1088), (9, 16, 96), (32, 20, 2150)]
)
def test_a_product_of_several_tokens_has_the_bits_of_the_reference(
    form: Format, tokens: int, rows: int, columns: int
) -> None:
    codes, weight, wanted = product(form, tokens, rows, columns)
    assert np.array_equal(several(codes, weight).numpy(), wanted)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize("share", [Share(1, 1), Share(2, 3), Share(4, 2)], ids=str)
def test_every_share_gives_the_same_and_a_tensor_is_added_on_the_way(form: Format, share: Share) -> None:
    codes, weight, wanted = product(form, 5, 18, 1536)
    add_TN = torch.linspace(-1, 1, wanted.size).reshape(wanted.shape)
    assert np.array_equal(several(codes, weight, add_TN, share).numpy(), wanted + add_TN.numpy())


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("tokens", "active", "experts", "chosen"),
    [(5, 2, 4, None), (20, 1, 3, [1] * 20), (3, 1, 130, None)],
    ids=["several", "one has all", "most are empty"],
)
def test_routed_rows_meet_their_experts(
    form: Format, tokens: int, active: int, experts: int, chosen: list[int] | None
) -> None:
    codes, weight, experts_R, gates_R, wanted = routed(form, tokens, active, experts, 33, 96, experts=chosen)
    ordered = order(experts_R, experts, 16)
    assert np.array_equal(several_routed(codes, active, ordered, gates_R, weight).numpy(), wanted)


def test_offsets_into_a_stack_have_64_bits() -> None:
    x, weight = beyond_32_bits()
    width = weight.shape[-1]
    ordered = order(torch.tensor([2], dtype=torch.int32), 3, 16)
    assert several_routed(x, 1, ordered, None, weight).tolist() == [[width, width]]


@pytest.mark.parametrize("is_four", [True, False])
@pytest.mark.parametrize("width", [64, 5120, 8192, 28672])
@pytest.mark.parametrize("tokens", [3, 8, 9, 32])
def test_a_share_is_chosen_for_every_size(tokens: int, width: int, is_four: bool) -> None:
    share = choose(tokens, width, is_four)
    count = -(-width // (32 if is_four else 16) // (4 * share.warps))
    assert 1 <= share.steps <= MOST_STEPS
    assert count % share.steps == 0, "a row is read without masks where it can be"


def test_rows_of_the_published_width_are_held_whole() -> None:
    assert choose(16, 5120, True) == Share(4, 10)
    assert choose(32, 5120, True).steps < 10, "sums of so many tokens need the registers"


def test_a_wide_token_is_multiplied_twice_beside_places_without_a_row() -> None:
    codes, weight, experts_R, gates_R, wanted = routed("int4", 4, 1, 3, 17, 256, experts=[1, 1, 2, 1])
    assert codes.wide_T.any()
    assert not codes.wide_T.all()
    found = several_routed(codes, 1, order(experts_R, 3, 8), gates_R, weight)
    assert np.array_equal(found.numpy(), wanted)
