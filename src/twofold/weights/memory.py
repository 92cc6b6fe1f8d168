"""How much memory is at hand, and what to say when a model does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from twofold.errors import OutOfMemory

# Per version of cgroups: limit, use, and the part of the use that the kernel gives back on demand.
CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still take: MemAvailable, less where a cgroup (a container) leaves less.

    Without /proc (not Linux) it is the machine's memory.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    machine = int(found["MemAvailable"].split()[0]) * 1024
    return min([machine, *cgroup_rooms(proc, cgroups)])


def cgroup_rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    """Bytes left in every memory cgroup that holds this process, ancestors included."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = cgroups, CGROUP_V2
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", CGROUP_V1
        else:
            continue
        # Inside a container the path may be the host's, which is not mounted; the root is then our own group.
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            room = cgroup_room(root / group, *names)
            if room is not None:
                yield room


def cgroup_room(group: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    """Bytes left in one cgroup; None when it has no limit or is not there."""
    try:
        limit = (group / limit_name).read_text().strip()
        usage = int((group / usage_name).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - usage + int(statistics.get(reclaimable, "0")))


def check_memory(needed_bytes: int, available_bytes: int, smaller: Sequence[tuple[str, int]]) -> None:
    """Raise OutOfMemory when more is needed than available, naming the first (setting, bytes) that fits."""
    if needed_bytes <= available_bytes:
        return
    fitting = next(((label, size) for label, size in smaller if size <= available_bytes), None)
    if fitting:
        remedy = f"{fitting[0]} needs {gigabytes(fitting[1])} and fits."
    elif smaller:
        label, size = min(smaller, key=lambda choice: choice[1])
        remedy = f"Even {label} needs {gigabytes(size)}: use a machine with more memory or a smaller model."
    else:
        remedy = "Use a machine with more memory or a smaller model."
    raise OutOfMemory(
        f"{gigabytes(needed_bytes)} of memory are needed, {gigabytes(available_bytes)} are available. {remedy}"
    )


def gigabytes(count: int) -> str:
    """Bytes in GB (1e9), for people."""
    return f"{count / 1e9:.2f} GB"
