"""Integer products of few tokens, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.gpu.integer_weights import INTEGERS, beyond_32_bits, product, routed
from twofold.backends.gpu.kernels.integer_few import MOST_HELD, Cut, choose, few, few_routed, steps_of
from twofold.ops.packed import Format

SMALL = Cut(2, 1, 1)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 1, 1), (2, 3, 96), (3, 2, 300), (5, 5, 64), (8, 2, 256), (1, 3, 2150)]
)
def test_a_product_of_few_tokens_has_the_bits_of_the_reference(
    form: Format, tokens: int, rows: int, columns: int
) -> None:
    codes, weight, wanted = product(form, tokens, rows, columns)
    assert np.array_equal(few(codes, weight, None, SMALL).numpy(), wanted)


def test_a_tensor_is_added_on_the_way() -> None:
    codes, weight, wanted = product("int4", 2, 3, 96)
    add_TN = torch.linspace(-1, 1, 6).reshape(2, 3)
    assert np.array_equal(few(codes, weight, add_TN, SMALL).numpy(), wanted + add_TN.numpy())


@pytest.mark.parametrize("cut", [Cut(4, 1, 2), Cut(1, 2, 1), Cut(8, 1, 5)], ids=str)
def test_every_cut_gives_the_same(cut: Cut) -> None:
    codes, weight, wanted = product("int4", 1, 5, 1088)
    assert np.array_equal(few(codes, weight, None, cut).numpy(), wanted)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(("tokens", "active", "experts"), [(1, 1, 4), (2, 2, 3)])
def test_routed_rows_meet_their_experts(form: Format, tokens: int, active: int, experts: int) -> None:
    codes, weight, experts_R, gates_R, wanted = routed(form, tokens, active, experts, 3, 96)
    assert np.array_equal(few_routed(codes, active, experts_R, gates_R, weight, SMALL).numpy(), wanted)
    add_RN = torch.linspace(-1, 1, wanted.size).reshape(wanted.shape)
    found = few_routed(codes, active, experts_R, gates_R, weight, SMALL, add_RN)
    assert np.array_equal(found.numpy(), wanted + add_RN.numpy())


def test_no_token_gives_no_row() -> None:
    codes, weight, wanted = product("int4", 0, 3, 96)
    assert few(codes, weight).shape == wanted.shape


def test_offsets_into_a_stack_have_64_bits() -> None:
    x, weight = beyond_32_bits()
    width = weight.shape[-1]
    y_RN = few_routed(x, 1, torch.tensor([2], dtype=torch.int32), None, weight, Cut(2, 8, 2))
    assert y_RN.tolist() == [[width, width]]


@pytest.mark.parametrize("is_four", [True, False])
@pytest.mark.parametrize("width", [64, 5120, 8192, 16384, 28672])
@pytest.mark.parametrize(("tokens", "rows"), [(1, 5120), (1, 16384), (2, 600), (8, 5120), (1, 100)])
def test_a_cut_is_chosen_for_every_size(tokens: int, rows: int, width: int, is_four: bool) -> None:
    cut = choose(tokens, rows, width, is_four)
    count = steps_of(width, is_four, cut.warps)
    assert cut.rows in (1, 2, 4)
    assert cut.rows * cut.steps * (1 if count <= cut.steps else 2) <= MOST_HELD
    assert count % cut.steps == 0, "a row is read without masks where it can be"
