"""Integer products of many tokens, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.gpu.integer_weights import INTEGERS, beyond_32_bits, product, routed
from twofold.backends.gpu.kernels import integer_many
from twofold.backends.gpu.kernels.integer_many import Tile, block_of, choose, many, many_routed
from twofold.backends.gpu.kernels.order import order
from twofold.ops.packed import Format

SMALL = Tile(32, 16, 128, 4, 3)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"),
    [(0, 5, 64), (1, 1, 1), (2, 15, 96), (17, 33, 300), (33, 80, 96), (50, 17, 64), (7, 40, 2150)],
)
def test_a_product_of_many_tokens_has_the_bits_of_the_reference(
    form: Format, tokens: int, rows: int, columns: int
) -> None:
    codes, weight, wanted = product(form, tokens, rows, columns)
    assert np.array_equal(many(codes, weight, SMALL).numpy(), wanted)


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize("tokens", [9, 20, 40, 70])
def test_the_tile_that_is_chosen_gives_the_same(form: Format, tokens: int) -> None:
    codes, weight, wanted = product(form, tokens, 70, 96)
    assert np.array_equal(many(codes, weight).numpy(), wanted)
    assert choose(tokens, 70).rows >= 16


@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(
    ("tokens", "active", "experts", "chosen"),
    [(5, 2, 4, None), (40, 1, 3, None), (20, 1, 3, [1] * 20), (3, 1, 130, None)],
    ids=["several", "many", "one has all", "most are empty"],
)
def test_routed_rows_meet_their_experts(
    form: Format, tokens: int, active: int, experts: int, chosen: list[int] | None
) -> None:
    codes, weight, experts_R, gates_R, wanted = routed(form, tokens, active, experts, 33, 96, experts=chosen)
    ordered = order(experts_R, experts, block_of(tokens * active, experts))
    assert np.array_equal(many_routed(codes, active, ordered, gates_R, weight).numpy(), wanted)


@pytest.mark.parametrize("form", INTEGERS)
def test_wide_tokens_of_large_tiles_are_gathered(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_many, "SPARSE_TOKENS", 16)
    codes, weight, wanted = product(form, 20, 33, 96)
    assert np.array_equal(many(codes, weight, SMALL).numpy(), wanted)
    for active in (1, 2):
        codes, weight, experts_R, gates_R, wanted = routed(form, 9, active, 3, 33, 96)
        got = many_routed(codes, active, order(experts_R, 3, 16), gates_R, weight, SMALL)
        assert np.array_equal(got.numpy(), wanted)


def test_offsets_into_a_stack_have_64_bits() -> None:
    x, weight = beyond_32_bits()
    width = weight.shape[-1]
    ordered = order(torch.tensor([2], dtype=torch.int32), 3, 16)
    assert many_routed(x, 1, ordered, None, weight, Tile(16, 16, 2048, 4, 2)).tolist() == [[width, width]]
