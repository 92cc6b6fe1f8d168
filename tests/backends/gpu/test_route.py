"""The router: its product, the best experts, their gates."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.float_weights import activations, error
from twofold.backends.gpu.kernels.route import counters, route
from twofold.ops import cases
from twofold.ops.reference import ReferenceOps


@pytest.mark.parametrize("case", list(cases.cases("route")), ids=lambda case: case.name)
def test_experts_are_chosen_as_the_reference_does(case: cases.Case) -> None:
    experts, gates = cases.run(case, ReferenceOps())
    x_TD, router_ED = torch.from_numpy(case.tokens[0]), torch.from_numpy(case.weights[0][1])
    for tokens in (1, len(x_TD)):
        got_experts, got_gates = route(x_TD[:tokens], router_ED, *case.settings)
        assert got_experts.tolist() == experts[:tokens].tolist()
        assert got_experts.dtype == torch.int32
        assert error(got_gates, torch.from_numpy(gates[:tokens])) <= case.tolerance.relative


def test_a_launch_leaves_the_counters_as_it_found_them() -> None:
    x_TD, router_ED = activations(5, 64), activations(7, 64)
    first = route(x_TD, router_ED, 2)
    assert not counters(x_TD.device).any()
    again = route(x_TD, router_ED, 2)
    assert first[0].tolist() == again[0].tolist()


@pytest.mark.parametrize("experts", [1, 16, 128])
def test_router_and_activations_may_have_two_bytes(experts: int) -> None:
    x_TD, router_ED = activations(3, 1100), activations(experts, 1100).flip(1)
    expected = torch.sort(x_TD @ router_ED.T, dim=-1, descending=True, stable=True)
    got_experts, got_gates = route(x_TD.bfloat16(), router_ED.bfloat16(), 1)
    assert got_experts.tolist() == expected.indices[:, :1].tolist()
    assert error(got_gates, torch.sigmoid(expected.values[:, :1])) <= 1e-5
    assert route(x_TD[:0], router_ED, 2)[0].shape == (0, 2)
