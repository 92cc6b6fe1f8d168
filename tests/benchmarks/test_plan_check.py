"""The plan against stored measurements, and the calibration that makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.calibrate import best, loss, memory_rests, spread
from benchmarks.plan_check import compare, is_kept
from benchmarks.plan_points import check_points, kind_of, predicted_memory, read_points
from benchmarks.results import FOLDER
from twofold.bench.efficiency import own_efficiency

PEERS = sorted(path for path in FOLDER.glob("*-peers-*.json") if "serve-peers" not in path.name)
SHARES = own_efficiency().shares


def test_memory_is_predicted_within_five_per_cent_of_what_was_measured_beside_other_engines() -> None:
    rests = memory_rests([path for path in PEERS if "2026-11-25" not in path.name])  # an older version held 6 % more
    assert len(rests) >= 6
    for rest, peak in rests:
        assert peak - rest + SHARES.working_bytes == pytest.approx(peak, rel=0.05)


def test_decode_of_one_sequence_is_predicted_within_twenty_per_cent_of_most_stored_rates() -> None:
    points = [point for point in read_points(PEERS) if point.kind == "decode"]
    assert len(points) >= 7
    within = [abs(point.predicted(SHARES) / point.measured - 1) <= 0.2 for point in points]
    assert sum(within) >= 0.8 * len(within)


def test_one_token_everywhere_is_no_point_of_a_plan() -> None:
    points = list(read_points([path for path in PEERS if "2026-11-26-2309" in path.name]))
    assert sorted((point.prompt, point.sequences) for point in points) == [
        *((1, count) for count in (1, 4, 8, 16)),
        (512, 1),
        (4096, 1),
        (4096, 1),
    ]


def test_a_share_moves_to_where_predictions_fit_better() -> None:
    points = [point for point in read_points(PEERS) if point.kind == "decode" and point.dtype == "w4a8"]
    wrong = replace(SHARES, read={**SHARES.read, "int4": 0.5})
    moved = best(points, wrong, "read", "int4")
    assert moved.read["int4"] > 0.5
    assert loss(points, moved) < loss(points, wrong)
    assert best(points, moved, "read", "int8") == moved  # no such weights were measured: nothing to learn


def test_spreads_are_the_tenth_and_ninetieth_percentile() -> None:
    found = spread([0.9, 1.0, 1.1])
    assert (found.low, found.high, found.count) == (0.92, 1.08, 3)


def test_a_comparison_tells_what_was_missed() -> None:
    limits = [20e9, 1e12, 0.25e12]
    peak = round(predicted_memory("llama-1b", "w4a8", 2073, SHARES))
    item = {"prompt": 1, "sequences": 1, "rates": [10.0, 5.0], "limits": limits}
    figure = {
        "network": "llama-1b",
        "dtype": "w4a8",
        "threads": 2,
        "others_share": 0.0,
        "context": 2073,
        "peak_bytes": peak,
    }
    compared = compare({**figure, "found": [item]})
    assert [found["name"] for found in compared] == ["decode, prompt 1, 1 sequences", "memory, bytes"]
    assert [is_kept(found) for found in compared] == [False, True]
    assert is_kept({"name": "several, prompt 1, 8 sequences", "error": 3.0})


def test_workloads_belong_to_figures() -> None:
    assert kind_of("prefill", 512, 1) == "prefill"
    assert [kind_of("decode", *pair) for pair in ((1, 1), (1, 8), (2048, 1))] == ["decode", "several", "depth"]


def test_files_of_other_benchmarks_have_no_points(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"benchmark": "load", "figures": []}')
    assert list(read_points([path])) == []


def test_cpu_time_is_set_against_the_highest_limits_of_the_run() -> None:
    items = [
        {"prompt": 1, "sequences": 1, "rates": [9.0, 9.0], "limits": [3e9, 7e11, 1e11]},
        {"prompt": 1024, "sequences": 1, "rates": [90.0, 8.0], "limits": [11e9, 6e11, 1e11]},
    ]
    figure = {"network": "llama-1b", "dtype": "w8a8", "others_share": 0.7, "found": items}
    alone = list(check_points("", {"figures": [{**figure, "threads": 1}]}))
    assert [point.kind for point in alone] == ["decode", "prefill", "depth"]
    assert {(point.limits.read_bytes_per_s, point.limits.int8_ops_per_s, point.weight) for point in alone} == {
        (11e9, 7e11, 1.0)
    }
    both = list(check_points("", {"figures": [{**figure, "threads": 2}]}))
    assert [point.limits.read_bytes_per_s for point in both] == [3e9, 11e9, 11e9]
    assert both[0].weight == pytest.approx(0.3)
