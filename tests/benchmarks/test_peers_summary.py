"""The arithmetic of the table."""

from __future__ import annotations

import pytest

from benchmarks.peers.gguf_file import Sizes
from benchmarks.peers.protocol import Report, Task
from benchmarks.peers.summary import FIGURES, Limits, Measured, Work, cell, summarise, times_as_fast
from benchmarks.peers.table import remarks, speed_table

DENSE = Work(ops_per_token=2e9, experts=0, active=0)
SPARSE = Work(ops_per_token=1e9, experts=16, active=1)
SIZES = Sizes(once_bytes=400, expert_bytes=1600)
LIMITS = [
    Limits(read_bytes_per_s=value, int8_ops_per_s=10 * value, int4_ops_per_s=20 * value) for value in (20e9, 40e9, 30e9)
]
BY_NAME = {figure.name: figure for figure in FIGURES}


def report(factor: float, **more: object) -> Report:
    tasks = {figure.task for figure in FIGURES}
    rates = {task.name: (100.0 * factor, 10.0 * factor) for task in tasks}
    values = {"version": "1", "start_s": factor, "peak_memory_bytes": 1000, "rates": rates, **more}
    return Report(**values)  # type: ignore[arg-type]


def rounds(*reports: Report, first: int = 0, others_share: float = 0.0) -> list[Measured]:
    numbered = enumerate(reports, first)
    return [Measured(round=at, report=item, wall_s=1.0, others_share=others_share) for at, item in numbered]


def test_median_spread_and_ratio_to_twofold() -> None:
    own = rounds(*(report(factor) for factor in (4.0, 2.0, 6.0)))
    theirs = rounds(*(report(factor) for factor in (1.0, 2.0, 3.0)))
    found = summarise(theirs, own, LIMITS, DENSE, SIZES, "int4")
    assert found["start_s"] == {"median": 2.0, "least": 1.0, "most": 3.0}
    decode = found["workloads"]["decode"]
    assert decode["tokens_per_s"] == {"median": 20.0, "least": 10.0, "most": 30.0}
    assert decode["twofold_times_as_fast"] == 2.0  # the median of 4, 1 and 2, each within its round


def test_a_round_only_one_of_them_finished_does_not_count() -> None:
    figure = BY_NAME["prefill 4096"]
    skipped = report(1.0, rates={}, skipped={"4096x1": "slow"})
    assert times_as_fast(figure, rounds(report(3.0), report(5.0)), rounds(report(1.0), skipped)) == 3.0
    assert times_as_fast(figure, rounds(report(3.0)), rounds(skipped)) is None
    assert times_as_fast(figure, rounds(report(3.0)), rounds(report(1.0), first=1)) is None


def test_decode_is_set_against_reading_and_prefill_against_the_arithmetic_of_its_codes() -> None:
    found = summarise(rounds(report(1.0)), [], LIMITS, DENSE, Sizes(once_bytes=1_500_000_000, expert_bytes=0), "int8")
    assert found["workloads"]["decode"]["read_bytes_per_s"] == 15e9
    assert found["workloads"]["decode"]["read_share"] == 0.5
    assert found["workloads"]["prefill 512"]["ops_per_s"] == 200e9
    assert found["workloads"]["prefill 512"]["ops_share"] == pytest.approx(2 / 3, abs=1e-4)
    of_int4 = summarise(rounds(report(1.0)), [], LIMITS, DENSE, None, "int4")["workloads"]["prefill 512"]
    assert of_int4["ops_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert "twofold_times_as_fast" not in found["workloads"]["decode"]


def test_floating_point_weights_have_no_share_of_an_integer_limit() -> None:
    found = summarise(rounds(report(1.0)), [], LIMITS, DENSE, None, None)
    assert "ops_share" not in found["workloads"]["prefill 512"]
    assert "read_share" not in found["workloads"]["decode"]


def test_a_batch_reads_the_experts_it_is_expected_to_choose() -> None:
    assert SPARSE.read_bytes(SIZES, 1) == pytest.approx(400 + 100)
    assert SPARSE.read_bytes(SIZES, 2) == pytest.approx(400 + 1600 * (1 - (15 / 16) ** 2))
    assert DENSE.read_bytes(SIZES, 16) == 400


def test_cells_show_shares_for_twofold_and_ratios_for_peers() -> None:
    entry = {"tokens_per_s": {"median": 1234.5}, "read_share": 0.81, "twofold_times_as_fast": 1.5}
    assert cell(entry, is_twofold=True) == "1,234.5 (81%)"
    assert cell(entry, is_twofold=False) == "1,234.5 (x1.50)"
    assert cell({"skipped": "slow"}, is_twofold=False) == "-"


def test_nothing_is_left_out_silently() -> None:
    ran = {"engine": "twofold", "form": "w4a8", "file_bytes": 1, "above_file_bytes": 1, "note": "random tokens"}
    slow = report(1.0, rates={}, skipped={Task(prompt=4096).name: "too slow"})
    ran |= summarise(rounds(slow, others_share=0.4), [], LIMITS, DENSE, None, "int4")
    rows = [ran, {"engine": "other", "reason": "cannot read llama4"}]
    figures = {
        "network": "toy",
        "dtype": "w4a8",
        "threads": 2,
        "limits": [vars(item) for item in LIMITS],
        "engines": rows,
    }
    assert speed_table(figures).row_count == sum(not figure.task.is_alike for figure in FIGURES) + 3
    said = "\n".join(remarks(figures))
    assert "limits in the same rounds: 30.0 GB/s read, 0.30 TOP/s int8, 0.60 TOP/s int4" in said
    assert "other did not run: cannot read llama4" in said
    assert "twofold, prefill 4096: skipped, too slow" in said
    assert "twofold: random tokens" in said
    assert "twofold: NOT QUIET, other programs took up to 40% of the cores" in said


def test_one_token_everywhere_is_compared_with_the_same_of_twofold() -> None:
    alike, usual = BY_NAME["decode, 16 sequences, one token"], BY_NAME["decode, 16 sequences"]
    own = report(1.0, rates={usual.task.name: (0.0, 100.0), alike.task.name: (0.0, 300.0)}, settled_s=4.5)
    theirs = report(1.0, rates={usual.task.name: (0.0, 50.0), alike.task.name: (0.0, 50.0)})
    found = summarise(rounds(theirs), rounds(own), LIMITS, SPARSE, SIZES, "int4")["workloads"]
    assert (found[usual.name]["twofold_times_as_fast"], found[alike.name]["twofold_times_as_fast"]) == (2.0, 6.0)
    assert found[alike.name]["read_bytes_per_s"] == round(50 / 16 * SPARSE.read_bytes(SIZES, 1))
    others = summarise(
        rounds(report(1.0, rates={usual.task.name: (0.0, 9.0)})), rounds(own), LIMITS, SPARSE, None, True
    )
    assert alike.name not in others["workloads"]
    assert summarise(rounds(own), [], LIMITS, SPARSE, None, "int4")["settled_s"]["median"] == 4.5
