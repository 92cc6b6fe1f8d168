"""Times follow from bytes, operations and limits; every term against a sum by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.networks import LLAMA_1B, SCOUT_MINI
from benchmarks.plan_points import counted
from twofold.bench.efficiency import own_efficiency, parse, to_toml
from twofold.bench.roofline import (
    STEP_TOKENS,
    Limits,
    Shares,
    cache_pool_bytes,
    decode_seconds,
    memory_bytes,
    prefill_seconds,
    seen_pairs,
)
from twofold.errors import SettingsError
from twofold.ops.cost import cache_bytes, expected_read_bytes

FREE = Limits(read_bytes_per_s=1e30, int8_ops_per_s=1e30, int4_ops_per_s=1e30, float_ops_per_s=1e30, fp8_ops_per_s=1e30)
ALL = dict.fromkeys(("int4", "int8", "fp8", "float"), 1.0)
WHOLE = Shares(read=ALL, few=ALL, many=ALL, kv=1.0, attention=1.0, layer_s=0.0, working_bytes=0.0)
SLOW_MEMORY = replace(FREE, read_bytes_per_s=1e9)
SLOW_INTEGERS = {"w8a8": replace(FREE, int8_ops_per_s=1e12), "w4a8": replace(FREE, int4_ops_per_s=1e12)}
SLOW_FLOATS = replace(FREE, float_ops_per_s=1e12)


@pytest.mark.parametrize("name", ["scout-mini", "llama-1b"])
@pytest.mark.parametrize("dtype", ["bf16", "w8a8", "w4a8"])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_a_step_that_waits_for_memory_takes_its_bytes_over_the_bandwidth(name: str, dtype: str, rows: int) -> None:
    network = counted(name, dtype)
    weights = expected_read_bytes(network.whole, network.expert_count, rows)
    cache = rows * cache_bytes(network.cache_shape, 100, "bf16")
    seconds = decode_seconds(network, SLOW_MEMORY, WHOLE, rows, 100, "bf16")
    assert seconds == pytest.approx((weights + cache) / 1e9, rel=0.001)  # rows of the embedding: one, or one each


@pytest.mark.parametrize("dtype", ["w8a8", "w4a8"])
def test_a_step_that_waits_for_arithmetic_takes_its_operations_over_the_rate(dtype: str) -> None:
    network = counted("llama-1b", dtype)
    layers = network.whole.total_parameters - network.whole.parameters["norm"]
    assert decode_seconds(network, SLOW_INTEGERS[dtype], WHOLE, 8, 1, "bf16") == pytest.approx(8 * 2 * layers / 1e12)
    pairs = 16 * 100
    seconds = decode_seconds(network, SLOW_FLOATS, WHOLE, 1, 100, "bf16")
    norms = 2 * network.whole.parameters["norm"] / 1e12
    assert seconds == pytest.approx(4 * 32 * 64 * pairs / 1e12 + norms)


def test_few_rows_and_many_have_their_own_shares() -> None:
    network = counted("llama-1b", "w4a8")
    halved = replace(WHOLE, few={**ALL, "int4": 0.5})
    for rows, factor in ((19, 2.0), (20, 1.0)):
        whole = decode_seconds(network, SLOW_INTEGERS["w4a8"], WHOLE, rows, 1, "bf16")
        assert decode_seconds(network, SLOW_INTEGERS["w4a8"], halved, rows, 1, "bf16") == pytest.approx(factor * whole)


def test_a_prompt_reads_the_weights_once_a_step_and_the_head_once() -> None:
    network = counted("llama-1b", "bf16")
    layers = network.whole.total_bytes - network.whole.bytes["embedding"]
    tokens = 2 * STEP_TOKENS + 10
    expected = (3 * layers + network.whole.bytes["embedding"]) / 1e9
    assert prefill_seconds(network, SLOW_MEMORY, WHOLE, tokens) == pytest.approx(expected)
    operations = 2 * tokens * (network.whole.total_parameters - network.whole.parameters["embedding"])
    head = 2 * network.whole.parameters["embedding"]
    pairs = 4 * 32 * 64 * 16 * tokens**2 / 2
    assert prefill_seconds(network, SLOW_FLOATS, WHOLE, tokens) == pytest.approx((operations + head + pairs) / 1e12)


def test_a_prompt_that_is_one_whole_step_is_one_step() -> None:
    network = counted("scout-mini", "w4a8")
    timed = replace(WHOLE, layer_s=1.0)
    assert prefill_seconds(network, FREE, timed, STEP_TOKENS) == pytest.approx(16.0)
    assert prefill_seconds(network, FREE, timed, STEP_TOKENS + 1) == pytest.approx(32.0)
    assert prefill_seconds(network, FREE, timed, 1) == pytest.approx(16.0)


def test_a_local_layer_sees_its_chunk_only() -> None:
    assert seen_pairs(100, None) == 5000
    assert seen_pairs(100, 30) == 3 * 450 + 50
    assert seen_pairs(20, 30) == 200


def test_memory_is_weights_cache_and_working_memory() -> None:
    network = counted("scout-mini", "w4a8")
    one, two = (memory_bytes(network, WHOLE, users, 4096, "bf16") for users in (1, 2))
    assert two - one == cache_pool_bytes(network, 1, 4096, "bf16") == cache_bytes(network.cache_shape, 4096, "bf16")
    assert one > network.whole.total_bytes + two - one
    long = cache_pool_bytes(network, 1, 100_000, "bf16")
    assert long == 2 * 4 * 128 * 2 * (4 * 100_000 + 12 * (8192 + STEP_TOKENS))


def test_the_efficiencies_that_ship_are_shares_and_read_back_as_written() -> None:
    found = own_efficiency()
    for shares in (found.shares.read, found.shares.few, found.shares.many):
        assert all(0 < share <= 1.05 for share in shares.values())
    assert found.sources
    assert all(spread.low <= spread.high and spread.count for spread in found.spreads.values())
    assert parse(to_toml(found)) == found


@pytest.mark.parametrize(("old", "new"), [("[other]", "[others]"), ("kv = ", "kw = "), ("low = ", "lowest = ")])
def test_a_damaged_file_of_efficiencies_is_told(old: str, new: str) -> None:
    with pytest.raises(SettingsError, match=r"benchmarks\.calibrate"):
        parse(to_toml(own_efficiency()).replace(old, new))


def test_the_benchmark_networks_are_counted_as_their_files_are() -> None:
    assert counted("scout-mini", "w4a8").whole.total_bytes == 2_717_324_288  # weights.twofold less its header
    assert counted("llama-1b", "w4a8").whole.total_bytes == 775_424_000
    assert SCOUT_MINI["hidden_size"] == LLAMA_1B["hidden_size"]
