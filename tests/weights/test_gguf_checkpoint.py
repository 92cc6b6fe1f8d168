"""A GGUF model has the names, shapes and rows of the folder it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from benchmarks.networks import TOY, TOY_DENSE, write_network
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.gguf_blocks import Grouped, unpack
from twofold.weights.gguf_checkpoint import GgufCheckpoint, experts_of, group_codes_of, layers_of, rope_factors_of
from twofold.weights.gguf_parts import GgufParts

from .make_gguf import random_blocks, write_gguf

SMALL = {"vocab_size": 64, "num_hidden_layers": 2}
NETWORKS: dict[str, dict[str, Any]] = {"llama4": {**TOY, **SMALL}, "llama": {**TOY_DENSE, **SMALL}}


@pytest.fixture(scope="module", params=NETWORKS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    write_network(NETWORKS[family], folder, shards=1)
    (folder / "tokenizer.json").unlink()
    return folder


def open_gguf(path: Path, family: str) -> GgufCheckpoint:
    return GgufCheckpoint(GgufParts(path), family, 4, 2)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K"])
def test_every_weight_comes_back_by_its_name(tmp_path: Path, folder: Path, family: str, kind: str) -> None:
    expected = write_gguf(folder, tmp_path / "m.gguf", kind)
    found = open_gguf(tmp_path / "m.gguf", family)
    assert set(found.names) == set(expected)
    for name, values in expected.items():
        assert found.shape(name) == values.shape
        rows = found.rows(name, 0, len(values)).astype(np.float32)
        np.testing.assert_array_equal(rows, np.atleast_2d(values), err_msg=name)
        if values.ndim > 1:
            np.testing.assert_array_equal(found.rows(name, 5, 23).astype(np.float32), values[5:23], err_msg=name)


def test_exact_values_are_those_of_the_folder(tmp_path: Path, folder: Path, family: str) -> None:
    write_gguf(folder, tmp_path / "m.gguf", "BF16")
    found, original = open_gguf(tmp_path / "m.gguf", family), Checkpoint.open(folder)
    for name in set(found.names) & set(original.names):
        rows = found.rows(name, 0, found.shape(name)[0]).astype(np.float32)
        np.testing.assert_array_equal(rows, np.atleast_2d(original.tensor(name).astype(np.float32)), err_msg=name)
    assert found.dtype("model.layers.0.self_attn.q_proj.weight") == "BF16"
    assert found.dtype("model.norm.weight") == "F32"


def test_pages_are_asked_for_and_given_back(tmp_path: Path, folder: Path, family: str) -> None:
    write_gguf(folder, tmp_path / "m.gguf", "Q8_0")
    found = open_gguf(tmp_path / "m.gguf", family)
    for name in found.names:
        before = found.rows(name, 0, 1)
        found.prefetch(name, 0, 1)
        found.release(name, 0, 1)
        np.testing.assert_array_equal(found.rows(name, 0, 1), before)


def with_tensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: Any = np.float32) -> GgufParts:
    writer = GGUFWriter(path, "llama")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufParts(path)


@pytest.mark.parametrize(
    ("name", "family"),
    [("blk.0.attn_q.bias", "llama"), ("blk.0.attn_qkv.weight", "llama"), ("blk.0.ffn_gate_exps.weight", "llama"),
     ("blk.0.attn_q_norm.weight", "llama4"), ("output_norm.bias", "llama"), ("output", "llama"),
     ("blk.x.attn_q.weight", "llama")],
)  # fmt: skip
def test_a_tensor_no_network_has_is_refused_and_not_left_out(tmp_path: Path, name: str, family: str) -> None:
    parts = with_tensors(tmp_path / "m.gguf", {name: (8, 8)})
    with pytest.raises(UnsupportedModel, match=rf"tensor '{name}' \[8, 8\] belongs to no {family} network"):
        GgufCheckpoint(parts, family, 2, 2)


@pytest.mark.parametrize("shape", [(10, 8), (32,), (2, 4, 8)])
def test_queries_that_do_not_divide_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    parts = with_tensors(tmp_path / "m.gguf", {"blk.0.attn_q.weight": shape})
    with pytest.raises(CheckpointError, match="rows for 4 heads of an even size"):
        GgufCheckpoint(parts, "llama", 4, 2)


def test_layers_experts_and_divisors_are_told_by_the_tensors(tmp_path: Path) -> None:
    shapes = {"blk.0.attn_norm.weight": (8,), "blk.1.ffn_up_exps.weight": (3, 4, 8), "rope_freqs.weight": (4,)}
    parts = with_tensors(tmp_path / "m.gguf", shapes)
    assert (layers_of(parts), experts_of(parts), rope_factors_of(parts)) == (2, 3, [0.0] * 4)
    none = with_tensors(tmp_path / "n.gguf", {"output.weight": (8, 8)})
    assert (layers_of(none), experts_of(none), rope_factors_of(none)) == (0, 0, [])


def test_a_missing_layer_and_odd_stacks_and_divisors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 layers, and none of layer 1"):
        layers_of(with_tensors(tmp_path / "m.gguf", {"blk.0.attn_norm.weight": (8,), "blk.9.attn_norm.weight": (8,)}))
    stacks = {"blk.0.ffn_up_exps.weight": (3, 4, 8), "blk.1.ffn_up_exps.weight": (2, 4, 8)}
    with pytest.raises(CheckpointError, match=r"layers of \[2, 3\] experts"):
        experts_of(with_tensors(tmp_path / "n.gguf", stacks))
    with pytest.raises(CheckpointError, match="a float32 vector was expected"):
        rope_factors_of(with_tensors(tmp_path / "o.gguf", {"rope_freqs.weight": (4,)}, np.float16))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K"])
def test_codes_stand_for_the_values_within_what_float16_takes(kind: str) -> None:
    found = unpack(kind, random_blocks(kind, 8, 512, seed=5))
    codes = group_codes_of(found)
    scales_ND = np.repeat(np.abs(found.scales_NG), 32, axis=1)
    offsets_ND = np.repeat(np.abs(found.offsets_NG), 32, axis=1) if found.offsets_NG is not None else 0
    lost_ND = np.abs(codes.values() - found.values())
    assert (lost_ND <= 2.0**-10 * (16 * scales_ND + offsets_ND)).all()
    if kind == "Q4_0":
        assert not lost_ND.any()


def test_groups_of_one_value_keep_it() -> None:
    found = Grouped(
        np.full((1, 64), 7, np.int8), np.array([[0, 1e-12]], np.float32), np.array([[-0.25, 3.0]], np.float32)
    )
    np.testing.assert_array_equal(group_codes_of(found).values(), np.repeat([[-0.25, 3.0]], 32, axis=1))


def test_scales_no_float16_holds_are_damage() -> None:
    found = Grouped(np.zeros((1, 32), np.int8), np.array([[1e6]], np.float32))
    with pytest.raises(CheckpointError, match="beyond 65,504"):
        group_codes_of(found)
