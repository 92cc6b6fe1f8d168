"""Nominal sizes are the published ones of Scout and Maverick; the plan shows these and what we hold ourselves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.test_configs import SCOUT, scout
from twofold.bench.published import nominal, nominal_reads, published_sizes
from twofold.models.registry import read_architecture
from twofold.models.vision_size import vision_parameters
from twofold.ops.cost import Footprint, cache_bytes, expected_read_bytes, footprint
from twofold.quant.schemes import scheme

MAVERICK = scout(num_local_experts=128, interleave_moe_layer_step=2, use_qk_norm=False, rope_scaling=None)
VISION = vision_parameters({"hidden_size": 1408}, 5120)


def counted(raw: dict[str, Any], dtype: str = "bf16") -> Footprint:
    return footprint(read_architecture(raw).targets(()), scheme(dtype), active=1, tied=False)


def gigabytes(size: float) -> float:
    return round(size / 1e9, 2)


@pytest.mark.parametrize(
    ("raw", "all_bf16", "experts_fp8", "experts_int4", "text_8", "text_4_5"),
    [(SCOUT, 217.28, 120.65, 73.84, 107.8, 60.6), (MAVERICK, 803.17, 416.62, 229.39, 400.7, 225.4)],
)
def test_sizes_are_those_of_the_published_files(
    raw: dict[str, Any], all_bf16: float, experts_fp8: float, experts_int4: float, text_8: float, text_4_5: float
) -> None:
    sizes = published_sizes(counted(raw), VISION)
    assert gigabytes(sizes["bf16"]) == all_bf16
    assert gigabytes(sizes["experts FP8, rest bf16"]) == experts_fp8
    assert gigabytes(sizes["experts int4, rest bf16"]) == experts_int4
    assert round(sizes["text at 8 bits"] / 1e9, 1) == text_8
    assert round(sizes["text at 4.5 bits"] / 1e9, 1) == text_4_5


@pytest.mark.parametrize(
    ("raw", "total", "text", "experts", "rest", "read"),
    [
        (SCOUT, 108_641_793_536, 107_769_861_120, 96_636_764_160, 11_133_096_960, 16_138_408_960),
        (MAVERICK, 401_583_781_376, 400_711_848_960, 386_547_056_640, 14_164_792_320, 16_150_205_440),
    ],
)
def test_parameters_are_the_published_ones(
    raw: dict[str, Any], total: int, text: int, experts: int, rest: int, read: int
) -> None:
    found = counted(raw)
    assert VISION == 871_932_416
    assert found.total_parameters + VISION == total
    assert found.total_parameters == text
    assert found.parameters["expert"] == experts
    assert text - found.parameters["expert"] == rest
    assert found.read_parameters_per_token - 5120 == read  # one row of the embedding is read as well


@pytest.mark.parametrize(
    ("raw", "bf16", "q8", "eight", "four"), [(SCOUT, 32.28, 17.15, 16.14, 9.08), (MAVERICK, 32.30, 17.16, 16.15, 9.08)]
)
def test_bytes_read_per_token_are_the_published_ones(
    raw: dict[str, Any], bf16: float, q8: float, eight: float, four: float
) -> None:
    reads = nominal_reads(counted(raw))
    assert [gigabytes(reads[bits]) for bits in (16.0, 8.5, 8.0, 4.5)] == [bf16, q8, eight, four]


@pytest.mark.parametrize("raw", [SCOUT, MAVERICK])
def test_what_we_hold_differs_from_the_nominal_size_by_router_norms_and_scales_only(raw: dict[str, Any]) -> None:
    found = counted(raw)
    small = found.parameters["router"] + found.parameters["norm"]
    padding = 64 * len(read_architecture(raw).targets(()))
    assert 0 <= found.total_bytes - nominal(found.total_parameters, 16.0) - 2 * small <= padding
    eight = counted(raw, "w8a8").total_bytes
    assert nominal(found.total_parameters, 8.0) < eight < 1.002 * nominal(found.total_parameters, 8.0)


@pytest.mark.parametrize("raw", [SCOUT, MAVERICK])
def test_keys_and_values_take_what_is_published(raw: dict[str, Any]) -> None:
    shape = read_architecture(raw).cache_shape
    assert cache_bytes(shape, 1, "bf16") == 196_608
    sizes = [round(cache_bytes(shape, tokens, "bf16") / 2**30, 2) for tokens in (8192, 32768, 131072, 262144, 1048576)]
    assert sizes == [1.5, 2.62, 7.12, 13.12, 49.12]
    assert cache_bytes(shape, 10_485_760, "bf16") / 2**30 == pytest.approx(481, abs=0.2)


@pytest.mark.parametrize(
    ("raw", "experts", "expected"),
    [(SCOUT, 16, {8: 6.5, 16: 10.3, 32: 14.0}), (MAVERICK, 128, {8: 7.8, 32: 28.4, 128: 81})],
)
def test_a_batch_is_expected_to_read_the_published_number_of_experts(
    raw: dict[str, Any], experts: int, expected: dict[int, float]
) -> None:
    found = counted(raw)
    for rows, distinct in expected.items():
        more = expected_read_bytes(found, experts, rows) - found.read_bytes_per_token
        assert more / (found.bytes["expert"] / experts) + 1 == pytest.approx(distinct, abs=0.5 if rows == 128 else 0.05)
