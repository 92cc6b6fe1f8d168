"""Packed folders: the same bits as packing while loading, and never read as something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.weights.make import llama_shapes, plain_targets, write_checkpoint
from twofold.backends.cpu.ops import CpuOps
from twofold.errors import CheckpointError
from twofold.ops.packed import Format, Packed, Packer
from twofold.ops.reference import ReferencePacker
from twofold.ops.types import Role, Target
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.load import load
from twofold.weights.packed_file import (
    VERSION,
    PackedFile,
    arrays_of,
    check_formats,
    read_packed,
    write_packed,
)

SHAPES = llama_shapes(layers=1, hidden=48, width=80, vocabulary=70)
FORMATS: dict[Role, Format] = {"norm": "f32", "dense": "int4", "expert": "int8"}


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, list[Target], dict[str, Packed]]:
    folder = write_checkpoint(tmp_path / "checkpoint", SHAPES)
    targets = plain_targets(SHAPES)
    weights = load(Checkpoint.open(folder), targets, FORMATS, ReferencePacker())
    path = tmp_path / "weights.twofold"
    write_packed(path, targets, FORMATS, weights, "w4a8")
    return path, targets, weights


@pytest.mark.parametrize("make", [ReferencePacker, lambda: CpuOps().packer], ids=["read", "mapped"])
def test_reading_gives_back_the_bits_that_were_packed(
    packed: tuple[Path, list[Target], dict[str, Packed]], make: Callable[[], Packer]
) -> None:
    path, targets, weights = packed
    file = PackedFile.open(path)
    assert file.dtype == "w4a8"
    heard: list[tuple[int, int]] = []
    again = read_packed(file, targets, FORMATS, make(), lambda done, total: heard.append((done, total)))
    assert list(again) == list(weights)
    for name, weight in weights.items():
        for ours, theirs in zip(arrays_of(again[name]), arrays_of(weight), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert heard[-1] == (file.size_bytes, file.size_bytes)
    assert not path.with_suffix(".partial").exists()


def test_a_file_of_another_network_is_refused(packed: tuple[Path, list[Target], dict[str, Packed]]) -> None:
    path, targets, _ = packed
    with pytest.raises(CheckpointError, match="another network"):
        read_packed(PackedFile.open(path), targets[:-1], FORMATS, ReferencePacker())
    with pytest.raises(CheckpointError, match="another network"):
        read_packed(PackedFile.open(path), targets, {**FORMATS, "dense": "int8"}, ReferencePacker())


def test_formats_that_are_none_or_of_other_weights_are_refused(
    packed: tuple[Path, list[Target], dict[str, Packed]],
) -> None:
    path, targets, weights = packed
    named: dict[str, Format] = {target.name: FORMATS[target.role] for target in targets}
    write_packed(path, targets, named, weights, "w4a8")
    check_formats(PackedFile.open(path), targets)
    for old, new in ((b"int4", b"int5"), (b"q_proj", b"Q_proj")):
        path.write_bytes(path.read_bytes().replace(old, new))
        with pytest.raises(CheckpointError, match="names no format for"):
            check_formats(PackedFile.open(path), targets)


def test_a_truncated_file_is_refused(packed: tuple[Path, list[Target], dict[str, Packed]]) -> None:
    path, _, _ = packed
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="100 bytes"):
        PackedFile.open(path)


def test_a_file_of_another_version_is_refused(packed: tuple[Path, list[Target], dict[str, Packed]]) -> None:
    path, _, _ = packed
    current = f'"twofold": "{VERSION}"'.encode()
    assert current in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(current, b'"twofold": "9"'))
    with pytest.raises(CheckpointError, match="pack the model again"):
        PackedFile.open(path)


def test_the_header_is_ordinary_safetensors(packed: tuple[Path, list[Target], dict[str, Packed]]) -> None:
    path, _, _ = packed
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert 8 + length == 4096
    assert json.loads(data[8 : 8 + length])["arena"]["dtype"] == "U8"
