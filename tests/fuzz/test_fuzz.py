"""The fuzz run itself: short in the ordinary tests, whole among the slow ones; and that it sees what it should see."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.fuzz.mutate import mutate_container, mutate_json_file
from tests.fuzz.seeds import Files
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watch import Job, jobs, make_input, run
from twofold.errors import CheckpointError

SEED = 20251126


def check_run(count: int) -> None:
    """No findings; and of every target some inputs are read and some refused, or it would show nothing."""
    result = run(jobs(SEED, count, TARGETS), workers=2)
    assert not result.findings, "\n".join(f"{item.target} {item.index}: {item.what}" for item in result.findings)
    assert result.count >= count
    for target in TARGETS:
        assert result.read[target.name], target.name
        assert result.refused[target.name], target.name


def test_two_thousand_damaged_inputs_are_read_or_refused() -> None:
    check_run(2000)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_inputs_are_read_or_refused() -> None:
    check_run(100_000)


def test_an_input_can_be_made_again_from_its_number() -> None:
    for target in TARGETS[:2]:
        folders = target.folders()
        made = [make_input(target, folders, SEED, index) for index in range(20)]
        assert made == [make_input(target, target.folders(), SEED, index) for index in range(20)]
        assert len({str(item) for item in made}) > 15


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_sound_folders_are_read(target: Target, tmp_path: Path) -> None:
    for index, files in enumerate(target.folders()):
        folder = tmp_path / str(index)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        target.read(folder)


def test_damages_hit_headers_and_data_alike() -> None:
    data = TARGETS[0].folders()[0]["model.safetensors"]
    begin = 8 + int.from_bytes(data[:8], "little")
    made = [mutate_container(data, Random(seed)) for seed in range(300)]
    assert sum(item[:begin] == data[:begin] and item != data for item in made) > 30
    assert sum(item[begin:] == data[begin:] and item != data for item in made) > 10
    assert len({mutate_json_file(b'{"a": [1, 2, {"b": "c"}]}', Random(seed)) for seed in range(200)}) > 100


# A reader that misbehaves on some inputs, for the watch to notice -----------------------------------------------------


def one_folder() -> list[Files]:
    """A file with a number."""
    return [{"number": b"0"}]


def next_number(files: Files, random: Random) -> Files:
    """Another number for every input."""
    return {"number": str(random.randrange(10**6)).encode()}


def read_well(folder: Path) -> None:
    if int((folder / "number").read_text()) % 2:
        raise CheckpointError("odd")


def read_with_an_error(folder: Path) -> None:
    raise ValueError("planted")


def read_with_an_allocation(folder: Path) -> None:
    np.ones(2**20, np.float64)


def read_with_a_huge_allocation(folder: Path) -> None:
    np.ones(2**34, np.float64)


def read_with_a_hang(folder: Path) -> None:
    while True:
        pass


def read_with_a_crash(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


PLANTED = Target(name="planted", share=1, folders=one_folder, mutate=next_number, read=read_well)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (read_with_an_error, "ValueError: planted"),
        (read_with_an_allocation, "allocates 8"),
        (read_with_a_huge_allocation, "MemoryError"),
        (read_with_a_hang, "hangs: more than 0.2 s"),
        (read_with_a_crash, "ends its process with -11"),
    ],
)
def test_the_watch_notices(read: object, words: str) -> None:
    target = dataclasses.replace(PLANTED, read=read)  # type: ignore[arg-type]
    result = run([Job(SEED, target, 0, 1, hang_s=0.2 if "hangs" in words else 20)], workers=1)
    assert [item.target for item in result.findings] == ["planted"]
    assert words in result.findings[0].what
    assert result.count == 1


def test_a_well_behaved_reader_is_counted() -> None:
    result = run([Job(SEED, PLANTED, 0, 50)], workers=1)
    assert not result.findings
    assert result.read["planted"] + result.refused["planted"] == 50
    assert min(result.read["planted"], result.refused["planted"]) > 10
