"""Few CPUs, many threads: the pool must take what there is and never wait for what cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

PATIENCE_S = 120
WORK = """
import os, sys
import numpy as np
from twofold.backends.cpu.ops import CpuOps, load_native
from twofold.ops.attention_cases import AttentionCase, attend
from twofold.ops.cases import generator, normal, pack

native = load_native()
print(native.threads())
if sys.argv[1] != "0":
    native.set_threads(int(sys.argv[1]))
ops = CpuOps()
weight, x = pack(ops, "int4", normal(generator(1), 512, 256)), normal(generator(2), 40, 256)
case = AttentionCase(lengths=(1500, 3), heads=4, kv_heads=2, size=16, block_size=32)
found = [np.float64(ops.linear(x, weight).sum()), np.float64(attend(case, ops, 700).sum())]
assert all(ops.linear(x, weight).sum() == found[0] for _ in range(50))
print(found)
"""


def work(threads: int, *before: str) -> list[str]:
    """What WORK prints with so many threads (0: as many as the pool finds right)."""
    command = [*before, sys.executable, "-c", WORK, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A cgroup with a quota of half a CPU; skipped where none can be made (no root, no such controller)."""
    name = f"twofold-{uuid4().hex[:8]}"
    for root, file, quota in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000"),
        ("/sys/fs/cgroup", "cpu.max", "50000 100000"),
    ):
        group = Path(root) / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(quota)
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no cgroup with a CPU quota can be made here")


def test_more_threads_than_cpus_change_nothing() -> None:
    assert work(64)[1:] == work(1)[1:]


def test_a_process_that_may_use_one_cpu_takes_one_thread_and_survives_64() -> None:
    cpu = min(os.sched_getaffinity(0))
    lines = work(64, "taskset", "-c", str(cpu))
    assert lines[0] == "1"
    assert lines[1:] == work(1)[1:]


def test_a_quota_of_half_a_cpu_takes_one_thread_and_survives_64(half_a_cpu: Path) -> None:
    enter = f'echo $$ > {half_a_cpu}/cgroup.procs && exec "$@"'
    lines = work(64, "sh", "-c", enter, "sh")
    assert lines[0] == "1"
    assert lines[1:] == work(1)[1:]
