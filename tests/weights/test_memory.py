from pathlib import Path

import pytest

from twofold.errors import OutOfMemory
from twofold.weights.memory import available_memory, check_memory

GB = 10**9


def machine(folder: Path, cgroup: str, groups: dict[str, tuple[str, int, int]], version: int) -> int:
    """available_memory on a made-up machine with 8 GiB available; groups: path -> (limit, use, inactive file pages)."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nHugePages_Total: 0\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    limit_name, usage_name = [
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.max", "memory.current"),
    ][version - 1]
    prefix = "total_" if version == 1 else ""
    for path, (limit, usage, inactive) in groups.items():
        group = cgroups / "memory" / path if version == 1 else cgroups / path
        group.mkdir(parents=True, exist_ok=True)
        (group / limit_name).write_text(f"{limit}\n")
        (group / usage_name).write_text(f"{usage}\n")
        (group / "memory.stat").write_text(f"anon 1\n{prefix}inactive_file {inactive}\n")
    return available_memory(proc, cgroups)


def test_without_a_limit_the_machine_decides(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n", {}, 2) == 8 * 2**30


@pytest.mark.parametrize(("version", "unlimited"), [(1, "9223372036854771712"), (2, "max")])
def test_a_group_without_a_limit_changes_nothing(tmp_path: Path, version: int, unlimited: str) -> None:
    cgroup = "4:memory:/a\n" if version == 1 else "0::/a\n"
    assert machine(tmp_path, cgroup, {"a": (unlimited, GB, 0)}, version) == 8 * 2**30


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_decides_and_file_pages_count_as_free(tmp_path: Path, version: int) -> None:
    cgroup = "5:cpu:/x\n4:hugetlb,memory:/a/b\n" if version == 1 else "0::/a/b\n"
    groups = {"a": (str(4 * GB), 3 * GB, GB // 2), "a/b": (str(6 * GB), GB, 0)}
    assert machine(tmp_path, cgroup, groups, version) == 3 * GB // 2


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_mounted_root_is_the_own_group(tmp_path: Path, version: int) -> None:
    cgroup = "4:memory:/docker/abc\n" if version == 1 else "0::/../../docker/abc\n"
    assert machine(tmp_path, cgroup, {"": (str(2 * GB), GB, 0)}, version) == GB


def test_a_full_group_leaves_nothing(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/a\n", {"a": (str(GB), 2 * GB, 0)}, 2) == 0


def test_this_machine_has_memory() -> None:
    assert 2**20 < available_memory() < 2**60


def test_without_proc_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "none") > 2**20


def test_what_fits_is_let_through() -> None:
    check_memory(GB, GB, [])


def test_the_first_setting_that_fits_is_named() -> None:
    choices = [("--dtype w8a8", 11 * GB), ("--dtype w4a8", 6 * GB), ("--dtype w4a8 --context 2048", 5 * GB)]
    with pytest.raises(
        OutOfMemory, match=r"^20\.00 GB .* 10\.00 GB are available\. --dtype w4a8 needs 6\.00 GB and fits"
    ):
        check_memory(20 * GB, 10 * GB, choices)


def test_when_nothing_fits_the_smallest_is_named() -> None:
    with pytest.raises(OutOfMemory, match=r"Even --dtype w4a8 needs 6\.00 GB: use a machine with more memory"):
        check_memory(20 * GB, 1 * GB, [("--dtype w8a8", 11 * GB), ("--dtype w4a8", 6 * GB)])


def test_without_smaller_settings_a_larger_machine_is_advised() -> None:
    with pytest.raises(OutOfMemory, match="more memory"):
        check_memory(2, 1, [])
