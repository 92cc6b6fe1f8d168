"""The processor's energy counters, in folders like those of Linux."""

from __future__ import annotations

from pathlib import Path

from twofold.server.energy import Energy


def counter(root: Path, folder: str, name: str, microjoules: int, most: int = 1_000_000_000) -> Path:
    path = root / folder
    path.mkdir()
    (path / "name").write_text(name + "\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def test_packages_and_their_memory_count_and_what_lies_within_them_does_not(tmp_path: Path) -> None:
    package = counter(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    memory = counter(tmp_path, "intel-rapl:0:1", "dram", 0)
    counter(tmp_path, "intel-rapl:0:0", "core", 0)
    counter(tmp_path, "intel-rapl:1", "psys", 0)
    energy = Energy(tmp_path)
    assert energy.joules() == {"package-0": 0.0, "package-0-dram": 0.0}
    package.write_text("7500000\n")
    memory.write_text("1000000\n")
    assert energy.joules() == {"package-0": 2.5, "package-0-dram": 1.0}
    assert energy.reason == ""


def test_a_counter_that_has_run_around_goes_on(tmp_path: Path) -> None:
    package = counter(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=9_999_999)
    energy = Energy(tmp_path)
    package.write_text("2000000\n")
    assert energy.joules() == {"package-0": 3.0}


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        energy = Energy(root)
        assert energy.joules() == {}
        assert "no energy counters" in energy.reason


def test_counters_that_only_root_may_read_are_told(ordinary_user: Path) -> None:
    counter(ordinary_user, "intel-rapl:0", "package-0", 0).chmod(0)
    assert "root only" in Energy(ordinary_user).reason


def test_counters_that_go_away_or_make_no_sense_are_told(tmp_path: Path) -> None:
    package = counter(tmp_path, "intel-rapl:0", "package-0", 0)
    energy = Energy(tmp_path)
    package.write_text("much\n")
    assert energy.joules() == {}
    assert "no longer" in energy.reason
    assert "cannot be read" in Energy(tmp_path).reason
