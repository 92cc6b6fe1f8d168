import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.errors import CheckpointError
from twofold.weights.checkpoint import INDEX_NAME, Checkpoint, missing_shards

from .make import write_arrays, write_shard

ARRAYS = {f"layer.{i}.weight": np.full((2, 3), i, np.float32) for i in range(5)}


def check_refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def check_complete(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert set(checkpoint.names) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(checkpoint.tensor(name), array)
        assert checkpoint.shape(name) == (2, 3)
        assert checkpoint.dtype(name) == "F32"
    assert checkpoint.size_bytes == 5 * 24


def edit_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"].update(changes)
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file is not None}
    (folder / INDEX_NAME).write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_one_file_and_shards_hold_the_same(tmp_path: Path, shards: int) -> None:
    check_complete(write_arrays(tmp_path, ARRAYS, shards))


def test_shards_without_an_index_are_joined(tmp_path: Path) -> None:
    write_arrays(tmp_path, ARRAYS, 3)
    (tmp_path / INDEX_NAME).unlink()
    check_complete(tmp_path)


def test_files_of_any_name_are_joined(tmp_path: Path) -> None:
    for i, (name, array) in enumerate(ARRAYS.items()):
        write_shard(tmp_path / f"part_{i}.safetensors", {name: array})
    check_complete(tmp_path)


def test_links_into_a_blob_store_are_followed(tmp_path: Path) -> None:
    write_arrays(tmp_path / "blobs", ARRAYS, 2)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (snapshot / path.name).symlink_to(Path("..") / "blobs" / path.name)
    check_complete(snapshot)


@pytest.mark.parametrize("has_index", [True, False])
def test_missing_shards_are_listed_all_at_once(tmp_path: Path, has_index: bool) -> None:
    write_arrays(tmp_path, ARRAYS, 5)
    if not has_index:
        (tmp_path / INDEX_NAME).unlink()
    names = ["model-00002-of-00005.safetensors", "model-00005-of-00005.safetensors"]
    for name in names:
        (tmp_path / name).unlink()
    check_refused(tmp_path, "lacks 2 of 5", *names)
    assert missing_shards(tmp_path) == names


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "a\\b.safetensors", ".x.safetensors",
     "C:x.safetensors", "x\0.safetensors", "model.bin", 5, None, ["x.safetensors"]],
)  # fmt: skip
def test_an_index_cannot_point_elsewhere(tmp_path: Path, name: Any) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"layer.0.weight": name}}))
    check_refused(tmp_path, "layer.0.weight", "plain name", "Do not trust")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": "x"}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, index: dict[str, Any]) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    check_refused(tmp_path, "weight_map", "Download")


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text("{")
    check_refused(tmp_path, INDEX_NAME, "JSON")


def test_a_tensor_promised_by_the_index_but_not_in_its_shard_is_named_with_the_nearest(tmp_path: Path) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    edit_index(tmp_path, **{"layer.0.weights": "model-00001-of-00002.safetensors", "layer.0.weight": None})
    check_refused(tmp_path, "promises 1", "layer.0.weights", "model-00001-of-00002", "has 'layer.0.weight'")


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    edit_index(tmp_path, **{"layer.0.weight": "model-00002-of-00002.safetensors"})
    check_refused(tmp_path, "promises 1", "layer.0.weight")


def test_a_tensor_the_index_does_not_name_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    edit_index(tmp_path, **{"layer.0.weight": None})
    check_refused(tmp_path, "does not name", "layer.0.weight", "remove it")


@pytest.mark.parametrize("has_index", [True, False])
def test_the_same_tensor_in_two_files_is_refused(tmp_path: Path, has_index: bool) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    names = list(ARRAYS)[3:]
    write_shard(
        tmp_path / "model-00002-of-00002.safetensors", {name: ARRAYS[name] for name in [*names, "layer.0.weight"]}
    )
    if not has_index:
        (tmp_path / INDEX_NAME).unlink()
    check_refused(tmp_path, "in two files", "layer.0.weight", "model-00001", "model-00002")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_never_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    check_refused(tmp_path, name, "pickled", "safe_serialization")


def test_a_folder_of_gguf_only_says_what_to_use(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    check_refused(tmp_path, "GGUF", "safetensors repository")


def test_an_empty_folder_holds_no_weights(tmp_path: Path) -> None:
    check_refused(tmp_path, "no weights", "Download")


def test_a_link_to_nowhere_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    check_refused(tmp_path, "lacks 1 of 1", "model.safetensors")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_arrays(tmp_path, ARRAYS, 2)
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    check_refused(tmp_path, path.name, "5 bytes missing")
