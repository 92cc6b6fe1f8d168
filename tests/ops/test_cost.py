"""Costs counted from a weight table, against the published figures of Scout."""

from __future__ import annotations

from tests.models.test_configs import SCOUT
from twofold.models.registry import read_architecture
from twofold.ops.cost import Footprint, cache_bytes, expected_read_bytes, footprint, row_costs
from twofold.quant.schemes import scheme

ARCHITECTURE = read_architecture(SCOUT)


def scout(dtype: str) -> Footprint:
    targets = ARCHITECTURE.targets(["language_model.x"])
    return footprint(targets, scheme(dtype), active=1, tied=False)


def test_parameters_held_and_read_are_the_published_ones() -> None:
    counted = scout("bf16")
    assert counted.total_parameters == 107_769_861_120
    assert counted.parameters["expert"] == 96_636_764_160
    assert counted.read_parameters_per_token == 16_138_408_960 + 5120  # and one row of the embedding


def test_four_bits_take_a_quarter_of_sixteen_and_an_eighth_of_a_bit_more() -> None:
    bits = scout("w4a8").bytes["expert"] / scout("bf16").bytes["expert"] * 16
    assert 4.125 < bits < 4.135  # and a float per output row


def test_the_cache_of_local_layers_stops_growing_at_a_chunk() -> None:
    shape = ARCHITECTURE.cache_shape
    assert cache_bytes(shape, 8192, "bf16") == 196_608 * 8192
    assert cache_bytes(shape, 8192, "f32") == 2 * 196_608 * 8192
    assert cache_bytes(shape, 8192, "int8") == 196_608 * 8192 * 132 // 256
    assert cache_bytes(shape, 131072, "bf16") == 4096 * (12 * 131072 + 36 * 8192)


def test_a_batch_is_expected_to_read_the_distinct_experts() -> None:
    counted = scout("bf16")
    assert abs(expected_read_bytes(counted, 16, 1) / counted.read_bytes_per_token - 1) < 1e-9
    one_expert = counted.bytes["expert"] / 16
    read = expected_read_bytes(counted, 16, 16) - counted.read_bytes_per_token
    assert abs(read / one_expert + 1 - 10.3) < 0.05  # 10.3 of 16 experts per layer


def test_rows_of_a_mixture_of_experts_cost_the_experts_no_row_before_them_chose() -> None:
    counted = scout("w4a8")
    costs = row_costs(counted, 16, 16)
    assert costs[0] == 1.0
    assert list(costs) == sorted(set(costs))  # every row adds something
    expert_share = counted.bytes["expert"] / 16 / counted.read_bytes_per_token
    assert abs(costs[1] - (1 + expert_share * 15 / 16)) < 1e-9


def test_rows_of_a_dense_network_cost_nothing_more() -> None:
    assert row_costs(scout("w4a8"), 0, 4) == (1.0, 1.0, 1.0, 1.0)
