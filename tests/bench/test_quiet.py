"""Other programs' share of the machine."""

from __future__ import annotations

import pytest

from twofold.bench.quiet import Clock, busy_seconds, clock_with, others_share, read_clock

STAT = "cpu  100 20 30 9000 500 5 15 30 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


def test_idle_and_waiting_for_disks_are_not_work_but_stolen_time_is() -> None:
    assert busy_seconds(STAT, 100) == pytest.approx(2.0)


def test_what_the_engine_used_is_not_others() -> None:
    before = Clock(at=10.0, all_s=100.0, own_s=50.0)
    after = Clock(at=20.0, all_s=118.0, own_s=66.0)
    assert others_share(before, after, cores=2) == pytest.approx(0.1)
    assert others_share(before, Clock(at=20.0, all_s=110.0, own_s=66.0), cores=2) == 0.0  # clocks tick coarsely


def test_the_clock_runs_forward() -> None:
    first = read_clock()
    assert read_clock().all_s >= first.all_s > 0


def test_a_server_whose_work_nobody_tells_has_no_clock() -> None:
    assert clock_with(None) is None
    found = clock_with(1000.0)
    assert found is not None
    assert found.own_s > 1000.0
