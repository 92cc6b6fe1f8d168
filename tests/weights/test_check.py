from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from twofold.errors import MissingTensor, WrongTensor
from twofold.ops.types import Source, Target
from twofold.weights.check import check_sources
from twofold.weights.checkpoint import Checkpoint

from .make import llama_shapes, plain_targets, write_arrays, write_checkpoint

SHAPES = llama_shapes(layers=2, hidden=32, width=64, vocabulary=48)


def one(array: np.ndarray[Any, Any], folder: Path) -> Checkpoint:
    return Checkpoint.open(write_arrays(folder, {"w": array}))


def target(rows: int, columns: int) -> Target:
    shape = (rows, columns)
    return Target(name="w", role="dense", shape=shape, sources=((Source(name="w", shape=shape),),))


def test_a_complete_checkpoint_passes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, SHAPES, shards=2))
    check_sources(checkpoint, plain_targets(SHAPES))


def test_all_missing_tensors_are_named_with_the_nearest(tmp_path: Path) -> None:
    renamed = {name.replace("self_attn", "attention"): shape for name, shape in SHAPES.items()}
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, renamed))
    with pytest.raises(MissingTensor) as caught:
        check_sources(checkpoint, plain_targets(SHAPES))
    message = str(caught.value)
    assert message.startswith("8 of the network's tensors")
    for name in SHAPES:
        assert (name in message) == ("self_attn" in name)
    assert "model.layers.0.self_attn.k_proj.weight (nearest: model.layers.0.attention.k_proj.weight)" in message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    many = llama_shapes(layers=20, hidden=16, width=16, vocabulary=16)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, {"x": (1,)}))
    with pytest.raises(MissingTensor, match=rf"^{len(many)} of .*(?s:.*)and {len(many) - 50} more"):
        check_sources(checkpoint, plain_targets(many))


def test_a_wrong_shape_names_found_and_expected(tmp_path: Path) -> None:
    checkpoint = one(np.zeros((4, 8), np.float32), tmp_path)
    with pytest.raises(WrongTensor, match=r"'w' has shape \[4, 8\]; config\.json asks for \[8, 4\]"):
        check_sources(checkpoint, [target(8, 4)])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_float_dtypes_pass(tmp_path: Path, dtype: Any) -> None:
    check_sources(one(np.zeros((4, 8), dtype), tmp_path), [target(4, 8)])


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, np.int32, np.uint8])
def test_a_quantised_tensor_says_what_to_use(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(WrongTensor, match=r"Quantised checkpoints come with a later release; use the bfloat16"):
        check_sources(one(np.zeros((4, 8), dtype), tmp_path), [target(4, 8)])


def test_float64_is_not_rounded_silently(tmp_path: Path) -> None:
    with pytest.raises(WrongTensor, match=r"F64; F32, F16, BF16 can be loaded\. Convert it"):
        check_sources(one(np.zeros((4, 8)), tmp_path), [target(4, 8)])


def test_a_table_that_does_not_add_up_is_our_bug(tmp_path: Path) -> None:
    checkpoint = one(np.zeros((4, 8), np.float32), tmp_path)
    for shape in [(8, 8), (4, 16), (2, 4, 8)]:
        with pytest.raises(AssertionError):
            check_sources(checkpoint, [replace(target(4, 8), shape=shape)])
