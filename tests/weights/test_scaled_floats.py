"""ModelOpt and fbgemm, against values worked out from the written layouts, and refused where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.weights.damage import Tensors, open_tensors, read_all, with_value, without
from tests.weights.golden import values_of
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.codecs import codec_of, read_quantised_config

FP8 = ml_dtypes.float8_e4m3fn
FLOAT4 = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)
N, D, E = 48, 64, 3
MODELOPT_FP8 = {"quant_method": "modelopt", "quant_algo": "FP8"}
MODELOPT_FP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
RANDOM = np.random.default_rng(3)


def fp8(*shape: int) -> np.ndarray[Any, Any]:
    return (RANDOM.standard_normal(shape) * 50).astype(FP8)


def positive(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.uniform(0.01, 2, shape).astype(np.float32)


def float4(packed: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Codes two to a byte along an axis, value by value: the low half comes first."""
    values = np.array(FLOAT4, np.float32)
    moved = np.moveaxis(packed, axis, -1)
    both = np.stack([values[moved & 15], values[moved >> 4]], axis=-1).reshape(*moved.shape[:-1], -1)
    return np.moveaxis(both, -1, axis)


def check_matrix(folder: Path, config: dict[str, Any], tensors: Tensors, expected_ND: np.ndarray[Any, Any]) -> None:
    store = open_tensors(folder, config, {f"m.{name}": value for name, value in tensors.items()})
    assert store.shape("m.weight") == expected_ND.shape
    for start, stop in ((0, N), (5, 21)):
        np.testing.assert_array_equal(values_of(store.rows("m.weight", start, stop)), expected_ND[start:stop])


def check_stack(folder: Path, config: dict[str, Any], tensors: Tensors, expected_EDN: np.ndarray[Any, Any]) -> None:
    """A stack of experts, [E, in, out] as plain checkpoints have it."""
    store = open_tensors(folder, config, {f"x.experts.{name}": value for name, value in tensors.items()})
    name = next(iter(store.parts))
    assert store.shape(name) == expected_EDN.shape
    for expert in range(E):
        for start, stop in ((0, N), (5, 21)):
            found = values_of(store.rows(name, start, stop, expert))
            np.testing.assert_array_equal(found, expected_EDN[expert].T[start:stop])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_modelopt_fp8_has_one_scale(shape: tuple[int, ...], tmp_path: Path) -> None:
    q_ND, scale = fp8(N, D), np.full(shape, 0.37, np.float32)
    tensors = {"weight": q_ND, "weight_scale": scale, "input_scale": scale}
    check_matrix(tmp_path, MODELOPT_FP8, tensors, q_ND.astype(np.float32) * np.float32(0.37))


@pytest.mark.parametrize("shape", [(), (E,), (E, 1), (E, 1, 1)])
@pytest.mark.parametrize("stack", ["gate_up_proj", "down_proj"])
def test_modelopt_fp8_stacks_have_one_scale_or_one_per_expert(
    shape: tuple[int, ...], stack: str, tmp_path: Path
) -> None:
    q_EDN, scale = fp8(E, D, N), positive(*shape)
    expected = q_EDN.astype(np.float32) * (scale.reshape(-1, 1, 1) if shape else scale)
    tensors = {stack: q_EDN, f"{stack}_weight_scale": scale, f"{stack}_input_scale": np.ones((), np.float32)}
    check_stack(tmp_path, MODELOPT_FP8, tensors, expected)


def test_modelopt_nvfp4_multiplies_with_both_scales(tmp_path: Path) -> None:
    packed, small = RANDOM.integers(0, 256, (N, D // 2), np.uint8), np.abs(fp8(N, D // 16))
    whole = np.array(0.0021, np.float32)
    expected = float4(packed, 1) * np.repeat(small.astype(np.float32) * whole, 16, axis=1)
    tensors = {"weight": packed, "weight_scale": small, "weight_scale_2": whole}
    check_matrix(tmp_path, MODELOPT_FP4, tensors, expected)


@pytest.mark.parametrize("shape", [(), (E,)])
def test_modelopt_nvfp4_stacks_are_packed_along_inputs(shape: tuple[int, ...], tmp_path: Path) -> None:
    packed, small = RANDOM.integers(0, 256, (E, D // 2, N), np.uint8), np.abs(fp8(E, D // 16, N))
    whole = positive(*shape)
    scales = small.astype(np.float32) * (whole.reshape(-1, 1, 1) if shape else whole)
    tensors = {"down_proj": packed, "down_proj_weight_scale": small, "down_proj_weight_scale_2": whole}
    check_stack(tmp_path, MODELOPT_FP4, tensors, float4(packed, 1) * np.repeat(scales, 16, axis=1))


def test_fbgemm_has_a_scale_per_output(tmp_path: Path) -> None:
    q_ND, scale = fp8(N, D), positive(N, 1)
    check_matrix(tmp_path, FBGEMM, {"weight": q_ND, "weight_scale": scale}, q_ND.astype(np.float32) * scale)


@pytest.mark.parametrize(("stack", "shape"), [("gate_up_proj", (E, 1, N)), ("down_proj", (E, N, 1))])
def test_fbgemm_stacks_have_a_scale_per_output_of_each_expert(
    stack: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    q_EDN, scale = fp8(E, D, N), positive(*shape)
    expected = q_EDN.astype(np.float32) * scale.reshape(E, 1, N)
    check_stack(tmp_path, FBGEMM, {stack: q_EDN, f"{stack}_scale": scale}, expected)


def test_what_is_not_quantised_stays_as_it_is(tmp_path: Path) -> None:
    tensors = {
        "m.weight": fp8(N, D),
        "m.weight_scale": positive(),
        "n.weight": positive(4),
        "k_proj.k_scale": positive(),
    }
    store = open_tensors(tmp_path, MODELOPT_FP8, tensors)
    assert set(store.names) == {"m.weight", "n.weight", "k_proj.k_scale"}
    np.testing.assert_array_equal(store.tensor("n.weight"), tensors["n.weight"])


# What is refused ---------------------------------------------------------------------------------------------------

SOUND: dict[str, tuple[dict[str, Any], Tensors]] = {
    "fp8": (MODELOPT_FP8, {"m.weight": np.ones((N, D), FP8), "m.weight_scale": np.ones((), np.float32)}),
    "stack": (
        MODELOPT_FP8,
        {"x.experts.down_proj": np.ones((E, D, N), FP8), "x.experts.down_proj_weight_scale": np.ones((), np.float32)},
    ),
    "fp4": (
        MODELOPT_FP4,
        {
            "m.weight": np.ones((N, D // 2), np.uint8),
            "m.weight_scale": np.ones((N, D // 16), FP8),
            "m.weight_scale_2": np.ones((), np.float32),
        },
    ),
    "fp4 stack": (
        MODELOPT_FP4,
        {
            "x.experts.down_proj": np.ones((E, D // 2, N), np.uint8),
            "x.experts.down_proj_weight_scale": np.ones((E, D // 16, N), FP8),
            "x.experts.down_proj_weight_scale_2": np.ones((), np.float32),
        },
    ),
    "fbgemm": (FBGEMM, {"m.weight": np.ones((N, D), FP8), "m.weight_scale": np.ones((N, 1), np.float32)}),
}
STACK = "x.experts.down_proj"
WRONG: list[tuple[str, str, Any, str]] = [
    ("fp8", "m.weight", None, "is missing beside"),
    ("fp8", "m.weight", np.ones((N, D), np.float32), "F8_E4M3 or U8 was expected"),
    ("fp8", "m.weight", np.ones((N,), FP8), "two-dimensional"),
    ("fp8", "m.weight", np.ones((0, D), FP8), "two-dimensional"),
    ("fp8", "m.weight_scale", np.ones((N, 2), np.float32), "belongs to its module"),
    ("fp8", "m.weight_scale", np.ones((), np.int32), "belongs to its module"),
    ("stack", STACK, np.ones((D, N), FP8), "stack of experts"),
    ("stack", STACK, None, "is missing beside"),
    ("stack", f"{STACK}_weight_scale", np.ones((E + 1,), np.float32), "belongs to its module"),
    ("fp4", "m.weight", np.ones((N, D // 2 + 1), np.uint8), "groups of 16"),
    ("fp4", "m.weight_scale", np.ones((N, D // 32), FP8), "belongs to its module"),
    ("fp4", "m.weight_scale", np.ones((N, D // 16), np.float32), "belongs to its module"),
    ("fp4", "m.weight_scale_2", None, "is missing"),
    ("fp4", "m.weight_scale_2", np.ones((2,), np.float32), "belongs to its module"),
    ("fp4 stack", f"{STACK}_weight_scale", np.ones((E, N, D // 16), FP8), "belongs to its module"),
    ("fp4 stack", f"{STACK}_weight_scale_2", np.ones((E + 1,), np.float32), "belongs to its module"),
    ("fbgemm", "m.weight", np.ones((N, D), np.uint8), "F8_E4M3 was expected"),
    ("fbgemm", "m.weight_scale", np.ones((D, 1), np.float32), "belongs to its module"),
]
VALUES = [
    *(("fp8", "m.weight_scale", value, "finite scales") for value in (np.nan, np.inf)),
    ("fp8", "m.weight_scale", 0, "above 0"),
    ("fp8", "m.weight_scale", -1, "above 0"),
    ("fp8", "m.weight", np.nan, "finite weights"),
    ("stack", STACK, np.nan, "finite weights"),
    ("stack", f"{STACK}_weight_scale", 0, "above 0"),
    ("fp4", "m.weight_scale", np.nan, "finite scales"),
    ("fp4", "m.weight_scale_2", 0, "above 0"),
    ("fp4 stack", f"{STACK}_weight_scale", -1, "scales from 0 on"),
    ("fp4 stack", f"{STACK}_weight_scale_2", np.inf, "finite scales"),
    ("fbgemm", "m.weight_scale", -1, "scales from 0 on"),
]


@pytest.mark.parametrize("kind", SOUND)
def test_the_weights_that_are_damaged_below_are_read_while_they_are_sound(kind: str, tmp_path: Path) -> None:
    read_all(open_tensors(tmp_path, *SOUND[kind]))


@pytest.mark.parametrize(("kind", "name", "changed", "words"), WRONG)
def test_a_tensor_that_does_not_fit_its_weight_is_refused(
    kind: str, name: str, changed: Any, words: str, tmp_path: Path
) -> None:
    config, sound = SOUND[kind]
    tensors = without(sound, name)
    with pytest.raises(CheckpointError, match=words):
        open_tensors(tmp_path, config, tensors if changed is None else {**tensors, name: changed})


@pytest.mark.parametrize(("kind", "name", "value", "words"), VALUES)
def test_a_number_that_makes_no_sense_is_refused(
    kind: str, name: str, value: float, words: str, tmp_path: Path
) -> None:
    config, sound = SOUND[kind]
    with pytest.raises(CheckpointError, match=words) as caught:
        read_all(open_tensors(tmp_path, config, with_value(sound, name, value)))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_algo": "MIXED_PRECISION"}, "'MIXED_PRECISION'; FP8, NVFP4 can be read"),
        ({"quant_algo": "W4A8_AWQ"}, "can be read"),
        ({}, "quant_algo of this checkpoint is None"),
        ({"quant_algo": ["FP8"]}, "can be read"),
        ({"quant_algo": "NVFP4", "group_size": 32}, "group_size = 32"),
    ],
)
def test_other_algorithms_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        codec_of({"quantization_config": {"quant_method": "modelopt", **config}})


def test_the_config_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}})
    )
    codec = codec_of(read_quantised_config(tmp_path))
    assert codec is not None
    assert codec.name == "nvfp4"
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": []}')
    with pytest.raises(CheckpointError, match="an object was expected"):
        read_quantised_config(tmp_path)
