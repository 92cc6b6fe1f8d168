"""Damaged and mismatched exports: each is refused with what is wrong and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.export.conftest import Exported
from twofold.api import LLM
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.export.manifest import FILE_NAME, GRAPH_NAME, WEIGHTS_NAME, check_digests, read_manifest


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the demo model's export, to be damaged."""
    copy = tmp_path / "export"
    shutil.copytree(exported("demo", "portable")[1], copy)
    return copy


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def remember_graph(folder: Path) -> None:
    """Let the manifest believe that the graph is as it was exported."""
    edit(folder / FILE_NAME, lambda raw: raw["sizes"].update({GRAPH_NAME: (folder / GRAPH_NAME).stat().st_size}))


def test_a_missing_weights_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.onnx\.data, [\d,]+ bytes of this export"):
        LLM(folder)


@pytest.mark.parametrize("name", [GRAPH_NAME, WEIGHTS_NAME])
def test_a_truncated_file_is_told_with_both_sizes(name: str, folder: Path) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"bytes, [\d,]+ were exported; it is cut off"):
        LLM(folder)


def test_changed_weights_of_the_same_size_are_found_by_their_digest(folder: Path) -> None:
    path = folder / WEIGHTS_NAME
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"is not the file that was exported"):
        check_digests(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_tokenizer_or_config_of_another_model_is_refused(name: str, folder: Path) -> None:
    edit(folder / name, lambda raw: raw.update(added=1))
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that was exported with this graph"):
        LLM(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        LLM(folder)


def test_an_operator_set_that_is_too_new_for_the_runtime_is_said(folder: Path) -> None:
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    model.opset_import[0].version = 99
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    remember_graph(folder)
    with pytest.raises(UnsupportedModel, match="operator set that is too new for ONNX Runtime"):
        LLM(folder)


def test_an_operator_the_runtime_lacks_is_said(folder: Path) -> None:
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    next(node for node in model.graph.node if node.op_type == "Attention").op_type = "AttentionOfTomorrow"
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    remember_graph(folder)
    with pytest.raises(UnsupportedModel, match="lacks an operator"):
        LLM(folder)


def test_a_damaged_graph_is_no_traceback(folder: Path) -> None:
    path = folder / GRAPH_NAME
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(CheckpointError, match=r"cannot be opened by ONNX Runtime .* Export the model again"):
        LLM(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 9),
        ("target", "tpu"),
        ("dtype", "f8"),
        ("chunks", [0]),
        ("sizes", {}),
        ("opset", "23"),
        ("digests", []),
    ],
)
def test_a_damaged_manifest_is_refused(key: str, value: object, folder: Path) -> None:
    edit(folder / FILE_NAME, lambda raw: raw.update({key: value}))
    with pytest.raises(CheckpointError, match="export the model again"):
        LLM(folder)


def test_a_manifest_of_another_network_is_refused(folder: Path) -> None:
    edit(folder / FILE_NAME, lambda raw: raw.update(chunks=[None, None], kv_heads=7))
    with pytest.raises(CheckpointError, match="another network"):
        LLM(folder)
