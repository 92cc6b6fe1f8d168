"""Float products of few rows: all formats, tails, rows by themselves, experts, and stacks beyond 2^31 elements."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.float_weights import FLOATS, activations, choices, error, make, products
from twofold.backends.gpu.kernels import float_few, group4_few
from twofold.backends.gpu.kernels.float_few import few, few_routed
from twofold.backends.gpu.weights import Fp8Weight, Group4Weight, decode
from twofold.ops.cases import GROUPS, PRODUCTS
from twofold.ops.packed import Format


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 1, 1), (1, 5, 96), (3, 17, 300), (8, 9, 1088), (2, 4, 2048)]
)
def test_a_product_of_few_tokens_is_that_of_float64(form: Format, tokens: int, rows: int, columns: int) -> None:
    x_TD, weight = activations(tokens, columns), make(form, rows, columns)
    add_TN = torch.ones(tokens, rows)
    expected = x_TD.double() @ decode(weight).double().T
    assert error(few(x_TD, weight), expected) <= PRODUCTS[form].relative
    assert error(few(x_TD.bfloat16(), weight, add_TN), expected + 1) <= PRODUCTS[form].relative


@pytest.mark.parametrize("form", FLOATS)
def test_a_row_of_a_batch_has_the_bits_of_the_row_alone(form: Format) -> None:
    x_TD, weight = activations(4, 300), make(form, 7, 300)
    alone = torch.cat([few(x_TD[row : row + 1], weight) for row in range(4)])
    assert torch.equal(few(x_TD, weight), alone)


def test_rows_of_a_wider_tensor_are_read_where_they_lie() -> None:
    weight, wide = make("bf16", 6, 64), activations(3, 80)
    assert torch.equal(few(wide[:, :64], weight), few(wide[:, :64].contiguous(), weight))


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize(("tokens", "active", "experts"), [(1, 1, 4), (3, 2, 5), (2, 3, 3)])
def test_routed_rows_meet_their_experts(form: Format, tokens: int, active: int, experts: int) -> None:
    x_TD, weight = activations(tokens, 96), make(form, experts, 10, 96)
    experts_R, gates_R = choices(tokens, active, experts)
    expected = products(x_TD, active, experts_R, gates_R, weight)
    assert error(few_routed(x_TD, active, experts_R, gates_R, weight), expected) <= PRODUCTS[form].relative
    plain = products(x_TD, active, experts_R, torch.ones_like(gates_R), weight)
    assert error(few_routed(x_TD, active, experts_R, None, weight), plain) <= PRODUCTS[form].relative
    add_RN = torch.arange(plain.numel(), dtype=torch.float32).reshape(plain.shape) / 100
    found_RN = few_routed(x_TD, active, experts_R, None, weight, add_RN=add_RN)
    assert error(found_RN, plain + add_RN) <= PRODUCTS[form].relative


def test_no_token_gives_no_row() -> None:
    assert few(activations(0, 32), make("bf16", 3, 32)).shape == (0, 3)
    nobody = torch.empty(0, dtype=torch.int32)
    assert few_routed(activations(0, 32), 1, nobody, None, make("bf16", 2, 3, 32)).shape == (0, 3)


@pytest.mark.parametrize("tiling", float_few.CONFIGS, ids=str)
def test_every_tiling_of_a_sweep_is_right(tiling: group4_few.Tiling) -> None:
    x_TD, weight = activations(2, 1100), make("fp8", 9, 1100)
    expected = x_TD.double() @ decode(weight).double().T
    assert error(few(x_TD, weight, tiling=tiling), expected) <= PRODUCTS["fp8"].relative


@pytest.mark.parametrize("tiling", group4_few.CONFIGS, ids=str)
def test_every_tiling_of_four_bits_is_right(tiling: group4_few.Tiling) -> None:
    x_TD, weight = activations(2, 1100), make("group4", 9, 1100)
    expected = x_TD.double() @ decode(weight).double().T
    assert error(few(x_TD, weight, tiling=tiling), expected) <= GROUPS.relative


def test_the_last_expert_of_a_stack_beyond_two_billion_elements_is_found() -> None:
    experts, rows, columns = 2**31 // (4 * 4096) + 2, 4, 4096
    values = torch.empty(experts, rows, columns, dtype=torch.uint8)  # pages that nobody touches take no memory
    last = make("fp8", rows, columns)
    assert isinstance(last, Fp8Weight)
    values[-1] = last.values.view(torch.uint8)
    scales = torch.empty(experts, rows)
    scales[-1] = last.scales
    stack = Fp8Weight(values.view(torch.float8_e4m3fn), scales, (experts, rows, columns))
    x_TD, chosen = activations(1, columns), torch.tensor([experts - 1], dtype=torch.int32)
    assert torch.equal(few_routed(x_TD, 1, chosen, None, stack), few(x_TD, last))


def test_the_last_expert_of_a_large_stack_of_four_bits_is_found() -> None:
    last = make("group4", 16, 1024)
    assert isinstance(last, Group4Weight)
    experts = 2**31 // last.codes.numel() + 2
    codes = torch.empty(experts, *last.codes.shape, dtype=torch.uint8)
    scales, zeros = (torch.empty(experts, *last.scales.shape, dtype=torch.float16) for _ in range(2))
    codes[-1], scales[-1], zeros[-1] = last.codes, last.scales, last.zeros
    stack = Group4Weight(codes, scales, zeros, (experts, 16, 1024))
    x_TD, chosen = activations(1, 1024), torch.tensor([experts - 1], dtype=torch.int32)
    assert torch.equal(few_routed(x_TD, 1, chosen, None, stack), few(x_TD, last))
