"""What an export is made of: files, operators, and that weights are written once, as they should be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.export.conftest import Exported
from tests.export.graphs import TARGETS
from twofold.errors import SettingsError
from twofold.export.manifest import GRAPH_NAME, WEIGHTS_NAME, check_digests, read_manifest
from twofold.exporting import export_model
from twofold.loading import pack_model


def operators(graph: Any) -> Counter[tuple[str, str]]:
    """Domain and operator of every node, those in branches too."""
    found: Counter[tuple[str, str]] = Counter()
    for node in graph.node:
        found[node.domain, node.op_type] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += operators(attribute.g)
    return found


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "int4", "int8", "fp8"])
def test_the_portable_graph_passes_the_checker_with_standard_operators_only(dtype: str, exported: Exported) -> None:
    _, folder = exported("demo", "portable", dtype)
    onnx.checker.check_model(str(folder / GRAPH_NAME), full_check=True)
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    assert [item.domain for item in model.opset_import] == [""]
    assert {domain for domain, _ in operators(model.graph)} == {""}
    assert {("", "Attention"), ("", "RMSNormalization"), ("", "RotaryEmbedding")} <= set(operators(model.graph))


def test_the_graph_for_onnxruntime_uses_its_operators(exported: Exported) -> None:
    _, folder = exported("demo", "onnxruntime", "int4")
    onnx.checker.check_model(str(folder / GRAPH_NAME))
    found = operators(onnx.load(folder / GRAPH_NAME, load_external_data=False).graph)
    assert (found["com.microsoft", "GroupQueryAttention"], found["com.microsoft", "QMoE"]) == (4, 4)
    assert found["com.microsoft", "MatMulNBits"] == 4 * 4 + 1


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_says_what_it_holds(target: str, exported: Exported) -> None:
    _, folder = exported("demo", target)
    manifest = read_manifest(folder)
    check_digests(folder, manifest)
    assert (manifest.target, manifest.dtype, manifest.opset, manifest.vocabulary) == (target, "f32", 23, 3072)
    assert manifest.chunks == (256, 256, 256, None)
    assert {path.name for path in folder.iterdir()} >= {GRAPH_NAME, WEIGHTS_NAME, "config.json", "tokenizer.json"}
    assert not list(folder.glob("*.safetensors*"))


def test_the_graph_itself_stays_small_beside_its_weights(exported: Exported) -> None:
    _, folder = exported("demo", "portable")
    assert (folder / GRAPH_NAME).stat().st_size < 200_000 < (folder / WEIGHTS_NAME).stat().st_size


def test_a_tied_embedding_of_floats_is_written_once(exported: Exported, toy_folder: Any) -> None:
    _, folder = exported("llama3-tied", "portable")
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    large = [item for item in model.graph.initializer if list(item.dims) == [90, 60]]
    assert len(large) == 1


def test_what_is_there_is_not_overwritten_and_what_is_packed_not_exported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exists; name a folder"):
        export_model("demo", tmp_path, "portable", "f32")
    packed = pack_model("demo", tmp_path / "packed", "w4a8")
    with pytest.raises(SettingsError, match="exported already, as w4a8; take the original"):
        export_model(packed, tmp_path / "other", "portable", "f32")
    assert not (tmp_path / "other").exists()


def test_int8_codes_are_those_of_the_scheme_w8a8(exported: Exported) -> None:
    from twofold.loading import build_packer, open_model
    from twofold.ops.packed import integer_rows
    from twofold.weights.load import load

    _, folder = exported("demo", "portable", "int8")
    model = open_model("demo")
    target = next(item for item in model.targets if item.name == "layers.1.qkv")
    weight = load(model.store, (target,), {target.name: "int8"}, build_packer())[target.name]  # type: ignore[arg-type]
    tensors = {item.name: item for item in onnx.load(folder / GRAPH_NAME).graph.initializer}
    found = onnx.numpy_helper.to_array(tensors["layers.1.qkv.turned"])
    assert np.array_equal(found.T, integer_rows(weight)[: target.shape[0], : target.shape[1]])  # type: ignore[arg-type]


def test_experts_cannot_be_merged_with_standard_operators_only(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from twofold.cli.export import command

    found = CliRunner().invoke(command, ["demo", "-o", str(tmp_path / "graph"), "--experts", "merged"])
    assert isinstance(found.exception, SettingsError)
    assert "choose --target onnxruntime or genai" in str(found.exception)
    assert not (tmp_path / "graph").exists()
