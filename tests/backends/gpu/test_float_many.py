"""Float products by tiles: all formats, tails, experts without rows and one with all of them, large stacks."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.float_weights import FLOATS, activations, choices, error, make, ordered, products
from twofold.backends.gpu.kernels.float_few import few
from twofold.backends.gpu.kernels.float_many import many, many_routed
from twofold.backends.gpu.kernels.group4_many import widened
from twofold.backends.gpu.kernels.tiles import Tiling
from twofold.backends.gpu.weights import Fp8Weight, Group4Weight, decode
from twofold.ops.packed import Format

PRODUCTS: dict[Format, float] = {"f32": 1e-5, "bf16": 1e-5, "fp8": 1e-5, "group4": 1e-5}
"""Without matrix units everything is float32; x is such as bfloat16 holds exactly."""


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize(
    ("tokens", "active", "experts", "rows", "columns"),
    [(7, 1, 4, 34, 33), (40, 2, 5, 48, 96), (33, 1, 1, 40, 36), (17, 2, 3, 130, 300)],
)
def test_routed_rows_meet_their_experts(
    form: Format, tokens: int, active: int, experts: int, rows: int, columns: int
) -> None:
    x_TD, weight = activations(tokens, columns), make(form, experts, rows, columns)
    experts_R, gates_R = choices(tokens, active, experts)
    order = ordered(experts_R, experts, 16)
    expected = products(x_TD, active, experts_R, gates_R, weight)
    assert error(many_routed(x_TD, active, order, gates_R, weight), expected) <= PRODUCTS[form]
    plain = products(x_TD, active, experts_R, torch.ones_like(gates_R), weight)
    assert error(many_routed(x_TD, active, order, None, weight), plain) <= PRODUCTS[form]


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 1, 1), (20, 48, 96), (130, 33, 65)])
def test_a_product_by_tiles_is_that_of_float64(form: Format, tokens: int, rows: int, columns: int) -> None:
    x_TD, weight = activations(tokens, columns), make(form, rows, columns)
    expected = x_TD.double() @ decode(weight).double().T
    assert error(many(x_TD, weight), expected) <= PRODUCTS[form]


@pytest.mark.parametrize("form", FLOATS)
def test_experts_that_nobody_chose_change_nothing(form: Format) -> None:
    x_TD, weight = activations(20, 64), make(form, 6, 16, 64)
    experts_R, gates_R = (
        torch.full((20,), 4, dtype=torch.int32),
        torch.rand(20, generator=torch.Generator().manual_seed(1)),
    )
    got = many_routed(x_TD, 1, ordered(experts_R, 6, 16), gates_R, weight)
    assert error(got, products(x_TD, 1, experts_R, gates_R, weight)) <= PRODUCTS[form]


def test_a_row_does_not_depend_on_its_place_in_a_block() -> None:
    x_TD, weight = activations(9, 96), make("bf16", 3, 20, 96)
    experts_R = torch.tensor([2, 0, 2, 1, 2, 0, 1, 2, 2], dtype=torch.int32)
    together = many_routed(x_TD, 1, ordered(experts_R, 3, 16), None, weight)
    for row in range(9):
        alone = many_routed(x_TD[row : row + 1], 1, ordered(experts_R[row : row + 1], 3, 16), None, weight)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize("together", [1, 2, 8])
def test_programs_share_out_all_tiles(form: Format, together: int) -> None:
    x_TD, weight = activations(50, 64), make(form, 4, 70, 64)
    experts_R, gates_R = choices(50, 1, 4)
    got = many_routed(
        x_TD, 1, ordered(experts_R, 4, 16), gates_R, weight, tiling=Tiling(32, 32, 4, 2, together=together)
    )
    assert error(got, products(x_TD, 1, experts_R, gates_R, weight)) <= PRODUCTS[form]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 40), (18, 1100)])
def test_four_bits_are_widened_to_the_nearest_bfloat16(rows: int, columns: int) -> None:
    weight = make("group4", rows, columns)
    assert isinstance(weight, Group4Weight)
    assert error(widened(weight), decode(weight)) <= 2**-7  # the interpreter cuts off where devices round


def test_results_can_be_bfloat16() -> None:
    x_TD, weight = activations(17, 64), make("bf16", 20, 64)
    got = many(x_TD, weight, torch.bfloat16)
    assert got.dtype == torch.bfloat16
    assert error(got, many(x_TD, weight)) <= 2**-7  # the interpreter cuts off where devices round


def test_the_last_expert_of_a_stack_beyond_two_billion_elements_is_found() -> None:
    experts, rows, columns = 2**31 // (4 * 4096) + 2, 4, 4096
    values = torch.empty(experts, rows, columns, dtype=torch.uint8)  # pages that nobody touches take no memory
    last = make("fp8", rows, columns)
    assert isinstance(last, Fp8Weight)
    values[-1] = last.values.view(torch.uint8)
    scales = torch.empty(experts, rows)
    scales[-1] = last.scales
    stack = Fp8Weight(values.view(torch.float8_e4m3fn), scales, (experts, rows, columns))
    x_TD, chosen = activations(2, columns), torch.full((2,), experts - 1, dtype=torch.int32)
    order = ordered(torch.zeros(2, dtype=torch.int32), 1, 16)
    order.expert_of_block[0] = chosen[0]
    assert error(many_routed(x_TD, 1, order, None, stack), few(x_TD, last)) <= 1e-5
