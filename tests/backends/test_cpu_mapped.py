"""Weights that lie where a file has them: the same bytes at the same address before they are copied and after."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from twofold.backends.cpu.ops import CpuOps, CpuPacker, load_native

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 40 * 2**20 + 12345
"""Several pieces, the last one not whole."""
PATIENCE_S = 120
FORKS = """
import os, sys
from twofold.backends.cpu.ops import CpuOps
packer = CpuOps().packer
with open(sys.argv[1], "rb") as source:
    arena = packer.map_file(source.fileno(), 0, os.stat(sys.argv[1]).st_size)
first, total = int(arena[0]), int(arena.sum())
child = os.fork()
if child == 0:
    packer.settle()  # nobody copies here: nothing to wait for
    assert int(arena.sum()) == total
    del arena
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
packer.settle()
assert (int(arena[0]), int(arena.sum())) == (first, total)
"""
LITTLE_ROOM = """
import os, resource, sys
from twofold.backends.cpu.ops import CpuOps
from twofold.errors import OutOfMemory
packer, size = CpuOps().packer, os.stat(sys.argv[1]).st_size
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + size + (24 << 20), -1))  # for the mapping and a thread, not for a copy
with open(sys.argv[1], "rb") as source:
    arena = packer.map_file(source.fileno(), 0, size)
try:
    packer.settle()
except OutOfMemory as error:
    print(error, int(arena.sum()))
"""
LEAVES_EARLY = """
import threading
from twofold.backends.cpu.ops import CpuOps, load_native
ops = CpuOps()
threading.Thread(target=lambda: (load_native().measure_read(1 << 28, 1), ops), daemon=True).start()
"""


@pytest.fixture(scope="module")
def packer() -> CpuPacker:
    return CpuOps().packer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(PAGE) + np.random.default_rng(1).bytes(SIZE) + b"after it")
    return path


def content(path: Path) -> npt.NDArray[np.uint8]:
    return np.frombuffer(path.read_bytes()[PAGE : PAGE + SIZE], np.uint8)


def mapped(packer: CpuPacker, path: Path, begin: int = PAGE, size: int = SIZE) -> npt.NDArray[np.uint8] | None:
    with path.open("rb") as source:
        return packer.map_file(source.fileno(), begin, size)


def pages_of_files(address: int, size: int) -> list[str]:
    """Lines of this process's mappings of files in a range of addresses."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        first, last = (int(part, 16) for part in fields[0].split("-"))
        if first < address + size and address < last and int(fields[4]) != 0:
            found.append(line)
    return found


def test_bytes_are_there_at_once_and_stay_when_they_are_copied(packer: CpuPacker, file: Path) -> None:
    arena = mapped(packer, file)
    assert arena is not None
    np.testing.assert_array_equal(arena, content(file))
    assert arena.ctypes.data % 64 == 0
    assert not arena.flags.writeable
    packer.settle()
    assert not pages_of_files(arena.ctypes.data, SIZE)
    np.testing.assert_array_equal(arena, content(file))


def test_who_reads_meanwhile_reads_the_same(packer: CpuPacker, file: Path) -> None:
    arena, expected = mapped(packer, file), int(content(file).sum(dtype=np.int64))
    assert arena is not None
    settled = threading.Thread(target=packer.settle)
    settled.start()
    found = {int(arena.sum(dtype=np.int64))}
    while settled.is_alive():
        found.add(int(arena.sum(dtype=np.int64)))
    assert found == {expected}


def test_after_the_copy_the_file_may_be_cut(packer: CpuPacker, file: Path) -> None:
    arena, expected = mapped(packer, file), content(file)
    assert arena is not None
    packer.settle()
    os.truncate(file, 0)
    np.testing.assert_array_equal(arena, expected)


def test_weights_can_be_dropped_while_they_are_copied(packer: CpuPacker, file: Path) -> None:
    for _ in range(5):
        arena = mapped(packer, file)
        assert arena is not None
        address, view = arena.ctypes.data, arena[100:200]
        del arena
        np.testing.assert_array_equal(view, content(file)[100:200])  # a view keeps all of it
        del view
        assert not pages_of_files(address, SIZE)


@pytest.mark.parametrize(
    ("begin", "size"),
    [(PAGE + 64, SIZE - 64), (PAGE, SIZE + 1000), (PAGE, 0), (1 << 40, SIZE), (PAGE, 1 << 62), (-PAGE, SIZE)],
)
def test_what_the_file_has_not_or_not_at_a_page_is_not_mapped(
    packer: CpuPacker, file: Path, begin: int, size: int
) -> None:
    assert mapped(packer, file, begin, size) is None


def test_a_file_that_is_not_in_memory_is_better_read(packer: CpuPacker, tmp_path: Path) -> None:
    path = tmp_path / "holes"
    path.touch()
    os.truncate(path, PAGE + SIZE)
    assert mapped(packer, path) is None


def test_a_pipe_is_not_mapped() -> None:
    reading, writing = os.pipe()
    try:
        assert load_native().MappedFile(reading, 0, PAGE).memory() is None
    finally:
        os.close(reading)
        os.close(writing)


def test_a_fork_reads_the_same_and_waits_for_nobody(file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, file], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_weights_that_cannot_be_copied_stay_where_they_are_and_it_is_told(file: Path) -> None:
    run = [sys.executable, "-c", LITTLE_ROOM, file]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "could not be copied out of their file" in done.stdout
    assert done.stdout.split()[-1] == str(int(np.frombuffer(file.read_bytes(), np.uint8).sum()))


def test_a_process_may_end_while_a_thread_still_waits_for_native_code() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_EARLY], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
