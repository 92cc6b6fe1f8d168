"""Files of one model are found and joined; what is missing or of another model is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from twofold.errors import CheckpointError
from twofold.weights.gguf_parts import GgufParts, find_gguf

TENSORS = {f"t{index}": np.full((4, 8), index, np.float32) for index in range(6)}


def write(path: Path, per_part: int = 0, change: Callable[[GGUFWriter], None] | None = None) -> Path:
    writer = GGUFWriter(path, "llama", split_max_tensors=per_part)
    writer.add_string("general.name", "toy")
    if change:
        change(writer)
    for name, values in TENSORS.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model in three parts; returns the first."""
    write(tmp_path / "m.gguf", per_part=2)
    return tmp_path / "m-00001-of-00003.gguf"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        GgufParts(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def check(parts: GgufParts) -> None:
    assert set(parts.homes) == set(TENSORS)
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(parts.homes[name].plain(name), values)
        assert parts.shape(name) == (4, 8)
    assert parts.metadata["general.name"] == "toy"
    assert parts.size_bytes == 6 * 128
    assert parts.kinds == {"F32": 6}


def test_one_file_is_a_model(tmp_path: Path) -> None:
    check(GgufParts(write(tmp_path / "m.gguf")))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_part_stands_for_all(split: Path, number: int) -> None:
    check(GgufParts(split.with_name(f"m-{number:05}-of-00003.gguf")))


def test_missing_parts_are_named(split: Path) -> None:
    for number in (2, 3):
        split.with_name(f"m-{number:05}-of-00003.gguf").unlink()
    refused(split, "lacks 2 of the 3 parts", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf", "Download")


def test_a_part_alone_names_the_first(split: Path) -> None:
    split.unlink()
    refused(split.with_name("m-00002-of-00003.gguf"), "lacks 1 of the 3", "m-00001-of-00003.gguf")


def test_a_renamed_part_is_refused_with_a_remedy(split: Path) -> None:
    split.rename(split.with_name("model.gguf"))
    refused(split.with_name("model.gguf"), "part 1 of 3", "llama-gguf-split --merge")


def test_parts_in_the_wrong_place_are_refused(split: Path) -> None:
    shutil.copy(split.with_name("m-00002-of-00003.gguf"), split.with_name("m-00003-of-00003.gguf"))
    refused(split, "m-00003-of-00003.gguf says it is part 2 of 3", "its name says 3 of 3")


def test_parts_of_another_model_are_refused(split: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "m.gguf", per_part=2, change=lambda writer: writer.add_uint64("general.x", 1))
    other = tmp_path / "other" / split.name
    shutil.copy(other, split)
    data = split.with_name("m-00002-of-00003.gguf").read_bytes().replace(b"t2", b"t0").replace(b"t3", b"t1")
    split.with_name("m-00002-of-00003.gguf").write_bytes(data)
    refused(split, "in two files", "m-00001-of-00003.gguf", "m-00002-of-00003.gguf")


def test_a_wrong_sum_of_tensors_is_refused(split: Path) -> None:
    data = split.read_bytes()
    place = data.index(b"split.tensors.count") + len("split.tensors.count") + 4
    split.write_bytes(data[:place] + (7).to_bytes(4, "little") + data[place + 4 :])
    refused(split, "hold 6 tensors, 7 were promised")


def test_a_vocabulary_without_weights_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "v.gguf", "no tensors", "vocabulary")


def test_the_only_model_of_a_folder_is_found(split: Path) -> None:
    write(split.with_name("mmproj-model-f16.gguf"))
    assert find_gguf(split.parent) == split
    assert find_gguf(split.parent.parent) is None


def test_several_models_in_a_folder_are_listed(split: Path) -> None:
    write(split.with_name("m-Q8_0.gguf"))
    with pytest.raises(CheckpointError, match=r"2 GGUF models: m-00001-of-00003.gguf, m-Q8_0.gguf. Name one"):
        find_gguf(split.parent)
