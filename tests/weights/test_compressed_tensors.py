"""compressed-tensors, read bit for bit as the package itself decodes it, and refused where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.weights.damage import Tensors, open_tensors, read_all, with_value, without
from tests.weights.golden import FORMATS, STATIC_INPUTS, compress, config_of, preset, rounded_alike, values_of
from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import codec_of
from twofold.weights.quantised import QuantisedCheckpoint

ROWS, COLUMNS, MODULE = 48, 64, "model.layers.0.mlp.down_proj"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "FP8 static": ("FP8", {}),
    "FP8 dynamic": ("FP8_DYNAMIC", {}),
    "FP8 block": ("FP8_BLOCK", {"block_structure": [16, 32]}),
    "FP8 block, ragged": ("FP8_BLOCK", {"block_structure": [20, 24]}),
    "W8A8": ("W8A8", {}),
    "W8A8, one scale": ("W8A8", {"strategy": "tensor"}),
    "W8A8, asymmetric": ("W8A8", {"symmetric": False}),
    "W8A16, packed": ("W8A16", {"strategy": "channel", "group_size": None}),
    "W8A16, grouped": ("W8A16", {"group_size": 32}),
    "W4A16": ("W4A16", {"group_size": 16}),
    "W4A16, grouped": ("W4A16", {"group_size": 32}),
    "W4A16, one scale per row": ("W4A16", {"strategy": "channel", "group_size": None}),
    "W4A16, asymmetric": ("W4A16_ASYM", {"group_size": 32}),
    "NVFP4": ("NVFP4", {}),
    "NVFP4A16": ("NVFP4A16", {}),
    "MXFP4": ("MXFP4", {}),
}
AS_CODES = {
    **dict.fromkeys(("FP8 static", "FP8 dynamic"), "fp8"),
    **dict.fromkeys(("W8A8", "W8A8, one scale", "W8A16, packed"), "int8"),
    **dict.fromkeys(("W4A16, grouped", "W4A16, one scale per row", "W4A16, asymmetric"), "group4"),
}


def write_golden(folder: Path, name: str, changes: dict[str, Any]) -> tuple[QuantisedCheckpoint, np.ndarray]:
    """A module compressed by the package, and what the package decodes it to."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS)
    weight[3] = 0  # a row without anything to scale
    scheme, form = preset(name, **changes), FORMATS[name]
    stored, decoded = compress(weight, scheme, form)
    if name in STATIC_INPUTS:
        stored[STATIC_INPUTS[name]] = torch.tensor([0.5])
    folder.mkdir(exist_ok=True)
    save_file({f"{MODULE}.{part}": value for part, value in stored.items()}, folder / "model.safetensors")
    codec = codec_of({"quantization_config": config_of(scheme, form)})
    assert codec is not None
    return QuantisedCheckpoint(Checkpoint.open(folder), codec), decoded


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_the_package_decodes(case: str, tmp_path: Path) -> None:
    name, changes = CASES[case]
    store, expected = write_golden(tmp_path, name, changes)
    weight = f"{MODULE}.weight"
    assert [other for other in store.names if "input" not in other] == [weight]
    assert store.shape(weight) == (ROWS, COLUMNS)
    for start, stop in ((0, ROWS), (16, 32), (32, ROWS), (5, 7)):
        rows = store.rows(weight, start, stop)
        assert store.source_format(weight) == AS_CODES.get(case, "bf16")
        assert isinstance(rows, np.ndarray) == (case not in AS_CODES)
        np.testing.assert_array_equal(rounded_alike(values_of(rows), FORMATS[name]), expected[start:stop])


def test_every_code_of_a_four_bit_float_is_read(tmp_path: Path) -> None:
    """All 16 codes in both halves of a byte, scaled by powers of two, so without rounding."""
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scales = np.full((16, 2), 2.0).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"m.weight_packed": packed, "m.weight_scale": scales, "m.weight_global_scale": np.array([8], np.float32)}
    store = open_tensors(tmp_path, {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, tensors)
    sizes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    values = np.array(sizes + [-size for size in sizes], np.float32) / 4
    expected = np.stack([values[packed & 15], values[packed >> 4]], axis=-1).reshape(16, 32)
    np.testing.assert_array_equal(values_of(store.rows("m.weight", 0, 16)), expected)


# What is refused ---------------------------------------------------------------------------------------------------

FP8 = ml_dtypes.float8_e4m3fn
GROUPS = {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}
BLOCKS = {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [8, 32]}}}
SOUND: dict[str, tuple[dict[str, Any], Tensors]] = {
    "fp8": (
        {"format": "float-quantized"},
        {"m.weight": np.ones((16, 64), FP8), "m.weight_scale": np.ones((16, 1), np.float32)},
    ),
    "one": (
        {"format": "float-quantized"},
        {"m.weight": np.ones((16, 64), FP8), "m.weight_scale": np.ones((1,), np.float32)},
    ),
    "block": (
        {"format": "float-quantized", "config_groups": BLOCKS},
        {"m.weight": np.ones((16, 64), FP8), "m.weight_scale": np.ones((2, 2), np.float32)},
    ),
    "int8": (
        {"format": "int-quantized"},
        {
            "m.weight": np.ones((16, 64), np.int8),
            "m.weight_scale": np.ones((16, 1), np.float32),
            "m.weight_zero_point": np.ones((16, 1), np.int8),
        },
    ),
    "int4": (
        {"format": "pack-quantized", "config_groups": GROUPS},
        {
            "m.weight_packed": np.ones((16, 8), np.int32),
            "m.weight_scale": np.ones((16, 2), np.float32),
            "m.weight_shape": np.array([16, 64], np.int64),
            "m.weight_zero_point": np.ones((2, 2), np.int32),
            "m.weight_g_idx": np.zeros(64, np.int32),
        },
    ),
    "nvfp4": (
        {"format": "nvfp4-pack-quantized"},
        {
            "m.weight_packed": np.ones((16, 32), np.uint8),
            "m.weight_scale": np.ones((16, 4), FP8),
            "m.weight_global_scale": np.ones((1,), np.float32),
        },
    ),
    "mxfp4": (
        {"format": "mxfp4-pack-quantized"},
        {"m.weight_packed": np.ones((16, 32), np.uint8), "m.weight_scale": np.full((16, 2), 127, np.uint8)},
    ),
}
WRONG: list[tuple[str, str, Any, str]] = [
    ("fp8", "weight", np.ones((16, 64), np.float32), "F32 .* expected beside a weight_scale"),
    ("fp8", "weight", np.ones((2, 8, 64), FP8), "a matrix of"),
    ("fp8", "weight", np.ones((0, 64), FP8), "a matrix of"),
    ("fp8", "weight", None, "is missing beside"),
    ("fp8", "weight_scale", np.ones((15, 1), np.float32), "belongs to its module"),
    ("fp8", "weight_scale", np.ones((16, 2), np.float32), "belongs to its module"),
    ("fp8", "weight_scale", np.ones((16, 1), np.int32), "belongs to its module"),
    ("block", "weight_scale", np.ones((2, 3), np.float32), "belongs to its module"),
    ("int8", "weight_zero_point", np.ones((15, 1), np.int8), "belongs to its module"),
    ("int8", "weight_zero_point", np.ones((16, 1), np.int32), "belongs to its module"),
    ("int4", "weight_packed", np.ones((16, 7), np.int32), "codes of 4 or 8 bits"),
    ("int4", "weight_packed", np.ones((16, 8), np.float32), "a matrix of I32"),
    ("int4", "weight_shape", None, "two whole numbers"),
    ("int4", "weight_shape", np.array([16, 64], np.float32), "two whole numbers"),
    ("int4", "weight_shape", np.array([16, 64, 1], np.int64), "two whole numbers"),
    ("int4", "weight_shape", np.array([16, -64], np.int64), "codes of 4 or 8 bits"),
    ("int4", "weight_shape", np.array([17, 64], np.int64), "codes of 4 or 8 bits"),
    ("int4", "weight_scale", np.ones((16, 3), np.float32), "belongs to its module"),
    ("int4", "weight_zero_point", np.ones((2, 3), np.int32), "belongs to its module"),
    ("int4", "weight_g_idx", np.zeros(63, np.int32), "belongs to its module"),
    ("int4", "weight_g_idx", np.zeros(64, np.float32), "belongs to its module"),
    ("int4", "weight_g_idx", np.full(64, 2, np.int32), "one group from 0 to 1"),
    ("int4", "weight_g_idx", np.full(64, -1, np.int32), "one group from 0 to 1"),
    ("nvfp4", "weight_packed", np.ones((16, 31), np.uint8), "groups of 16"),
    ("nvfp4", "weight_scale", np.ones((16, 2), FP8), "belongs to its module"),
    ("nvfp4", "weight_scale", np.ones((16, 4), np.float32), "belongs to its module"),
    ("nvfp4", "weight_global_scale", None, "is missing"),
    ("nvfp4", "weight_global_scale", np.ones((16,), np.float32), "belongs to its module"),
    ("mxfp4", "weight_scale", np.ones((16, 4), np.uint8), "belongs to its module"),
]
VALUES = [
    *(("fp8", "weight_scale", value, "finite scales") for value in (np.nan, np.inf, -np.inf, 1e35)),
    ("fp8", "weight_scale", -1, "scales from 0 on"),
    ("fp8", "weight", np.nan, "finite weights"),
    ("one", "weight_scale", 0, "above 0"),
    ("one", "weight_scale", -2, "above 0"),
    ("block", "weight_scale", np.nan, "finite scales"),
    ("int8", "weight_scale", np.inf, "finite scales"),
    ("int4", "weight_scale", np.nan, "finite scales"),
    ("nvfp4", "weight_scale", np.nan, "finite scales"),
    ("nvfp4", "weight_scale", -1, "scales from 0 on"),
    *(("nvfp4", "weight_global_scale", value, "above 0") for value in (0, 1e-40)),
    ("nvfp4", "weight_global_scale", np.inf, "finite scales"),
    *(("mxfp4", "weight_scale", value, "no number") for value in (255, 228)),
]


def opened(folder: Path, kind: str, tensors: Tensors) -> None:
    """Open and decode."""
    read_all(open_tensors(folder, {"quant_method": "compressed-tensors", **SOUND[kind][0]}, tensors))


@pytest.mark.parametrize("kind", SOUND)
def test_the_modules_that_are_damaged_below_are_read_while_they_are_sound(kind: str, tmp_path: Path) -> None:
    opened(tmp_path, kind, SOUND[kind][1])


@pytest.mark.parametrize(("kind", "part", "changed", "words"), WRONG)
def test_a_tensor_that_does_not_fit_its_module_is_refused(
    kind: str, part: str, changed: Any, words: str, tmp_path: Path
) -> None:
    tensors = without(SOUND[kind][1], f"m.{part}")
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tmp_path, kind, tensors if changed is None else {**tensors, f"m.{part}": changed})
    assert f"m.{part}" in str(caught.value) or part in ("weight_shape", "weight")


@pytest.mark.parametrize(("kind", "part", "value", "words"), VALUES)
def test_a_number_that_makes_no_sense_is_refused(
    kind: str, part: str, value: float, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(tmp_path, kind, with_value(SOUND[kind][1], f"m.{part}", value))
    assert f"m.{part}" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"format": "sparse-bitmask"}, UnsupportedModel, "format is 'sparse-bitmask'"),
        ({"format": None}, UnsupportedModel, "format is None"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, UnsupportedModel, "sparsity format"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, UnsupportedModel, "rotations at run time"),
        ({"config_groups": [1]}, CheckpointError, "config_groups .* an object was expected"),
        ({"config_groups": {"a": 3}}, CheckpointError, "a config group .* an object was expected"),
        ({"config_groups": {"a": {"weights": "int"}}}, CheckpointError, "an object was expected"),
        ({"config_groups": {"a": {"weights": {"group_size": 0}}}}, CheckpointError, "group_size is 0"),
        ({"config_groups": {"a": {"weights": {"group_size": 2.5}}}}, CheckpointError, "group_size is 2.5"),
        ({"config_groups": {"a": {"weights": {"block_structure": [0, 4]}}}}, CheckpointError, "block_structure is 0"),
        ({"config_groups": {"a": {"weights": {"block_structure": "8xx"}}}}, CheckpointError, "block_structure"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(config: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        codec_of({"quantization_config": {"quant_method": "compressed-tensors", "format": "dense", **config}})


def test_a_block_written_as_text_is_read() -> None:
    groups = {"a": {"weights": {"num_bits": 8, "type": "float", "block_structure": "128x64"}}}
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    codec: Any = codec_of({"quantization_config": config})
    assert codec.settings.blocks == ((128, 64),)
    assert codec.name == "fp8"
