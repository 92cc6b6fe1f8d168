"""Whole Llama 4 folders as others publish them: the same network as the plain checkpoint of what they decode to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.conftest import build_ops
from tests.toys import LLAMA4
from tests.weights.golden import FORMATS, STATIC_INPUTS, compress, config_of, preset
from tests.weights.make import llama4_config, llama4_shapes, write_arrays
from twofold.loading import open_model
from twofold.ops.packed import decode
from twofold.weights.load import load

FP8 = ml_dtypes.float8_e4m3fn
Arrays = dict[str, np.ndarray[Any, Any]]
PREFIX = "language_model."
IGNORED = ("lm_head", "embed_tokens", "router", "self_attn", "vision_model", "norm")
"""What published Llama 4 files leave alone; some quantise the attention too."""


def plain_arrays(prefix: str, are_fused: bool) -> Arrays:
    """A random network, bfloat16 but for what formats round themselves."""
    random = np.random.default_rng(11)
    return {
        name: (random.standard_normal(shape) * 0.1).astype(np.float32)
        for name, shape in llama4_shapes(LLAMA4, prefix, are_fused).items()
    }


def write_folder(folder: Path, arrays: Arrays, quantization: Mapping[str, Any] | None, prefix: str) -> Path:
    """A folder with a config like the published ones: multi-modal where names have a prefix."""
    write_arrays(folder, arrays, shards=2)
    config: dict[str, Any] = llama4_config(LLAMA4)
    if prefix:
        config = {"model_type": "llama4", "text_config": config, "vision_config": {}}
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check_same_network(found: Path, expected: Path) -> None:
    """Every weight of both folders, bit for bit, in float32."""
    packer = build_ops("reference").packer
    models = [open_model(folder) for folder in (found, expected)]
    first, second = (load(model.store, model.targets, model.formats("f32"), packer) for model in models)  # type: ignore[arg-type]
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(decode(first[name]), decode(second[name]), err_msg=name)


CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "FP8 dynamic": ("FP8_DYNAMIC", {}, IGNORED),
    "FP8 static, with attention": ("FP8", {}, tuple(word for word in IGNORED if word != "self_attn")),
    "FP8 block": ("FP8_BLOCK", {"block_structure": [16, 16]}, IGNORED),
    "W8A8, without shared experts": ("W8A8", {}, (*IGNORED, "shared_expert")),
    "W4A16": ("W4A16", {"group_size": 16}, IGNORED),
    "W4A16, asymmetric": ("W4A16_ASYM", {"group_size": 16}, IGNORED),
    "NVFP4": ("NVFP4", {}, IGNORED),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", CASES)
def test_compressed_tensors_with_experts_one_by_one(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    name, changes, ignored = CASES[case]
    scheme, form = preset(name, **changes), FORMATS[name]
    stored, decoded = plain_arrays(PREFIX, are_fused=False), plain_arrays(PREFIX, are_fused=False)
    for weight, values in list(stored.items()):
        if values.ndim != 2 or any(word in weight for word in ignored):
            continue
        parts, decoded[weight] = compress(torch.from_numpy(values), scheme, form)
        del stored[weight]
        module = weight.removesuffix(".weight")
        stored |= {f"{module}.{part}": as_array(value) for part, value in parts.items()}
        if name in STATIC_INPUTS:
            stored[f"{module}.{STATIC_INPUTS[name]}"] = np.ones(1, np.float32)
    stored["vision_model.class_embedding"] = np.ones(4, np.float32)
    config = config_of(scheme, form, tuple(f"re:.*{word}.*" for word in ignored))
    if form.startswith("nvfp4"):  # the package gives its values in bfloat16 only; quotients are in float32
        decoded = {weight: exact_nvfp4(stored, weight, values) for weight, values in decoded.items()}
    check_same_network(
        write_folder(tmp_path / "found", stored, config, PREFIX),
        write_folder(tmp_path / "expected", decoded, None, PREFIX),
    )


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """A torch tensor as an array; NumPy has no float8 or bfloat16 of torch's."""
    import torch

    views = {torch.float8_e4m3fn: (torch.uint8, FP8), torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)}
    if tensor.dtype in views:
        raw, dtype = views[tensor.dtype]
        return np.asarray(tensor.view(raw).numpy()).view(dtype)
    return np.asarray(tensor.numpy())


def exact_nvfp4(stored: Arrays, weight: str, rounded: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The written layout in float32, which must round to what the package gives."""
    module = weight.removesuffix(".weight")
    if f"{module}.weight_packed" not in stored:
        return rounded
    sizes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([sizes, -sizes])
    packed = stored[f"{module}.weight_packed"]
    codes = np.stack([values[packed & 15], values[packed >> 4]], axis=-1).reshape(len(packed), -1)
    scales = stored[f"{module}.weight_scale"].astype(np.float32) / stored[f"{module}.weight_global_scale"]
    exact: np.ndarray[Any, Any] = codes * np.repeat(scales, 16, axis=1)
    np.testing.assert_array_equal(exact.astype(ml_dtypes.bfloat16).astype(np.float32), rounded)
    return exact


@pytest.mark.parametrize("kind", ["modelopt fp8", "modelopt nvfp4", "fbgemm"])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_stacks_of_experts_stay_stacks(kind: str, prefix: str, tmp_path: Path) -> None:
    stored, decoded = plain_arrays(prefix, are_fused=True), plain_arrays(prefix, are_fused=True)
    for name, values in list(stored.items()):
        if values.ndim == 1 or any(word in name for word in IGNORED):
            continue
        parts, decoded[name] = STORED_AS[kind](name, values)
        stored |= parts
    configs: dict[str, dict[str, Any]] = {
        "modelopt fp8": {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        "modelopt nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16},
        "fbgemm": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},
    }
    check_same_network(
        write_folder(tmp_path / "found", stored, configs[kind], prefix),
        write_folder(tmp_path / "expected", decoded, None, prefix),
    )


def modelopt_fp8(name: str, values: np.ndarray[Any, Any]) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """One scale for a tensor, also for a whole stack."""
    scale = np.float32(np.abs(values).max() / 448)
    codes = (values / scale).astype(FP8)
    return {name: codes, scale_name(name): np.array(scale)}, codes.astype(np.float32) * scale


def scale_name(name: str) -> str:
    """Where ModelOpt puts the scales of a matrix, or of a stack."""
    return f"{name}_scale" if name.endswith(".weight") else f"{name}_weight_scale"


def fbgemm(name: str, values: np.ndarray[Any, Any]) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """A scale for every output."""
    axis = 1  # inputs come second, in matrices and in stacks
    scales = (np.abs(values).max(axis=axis, keepdims=True) / 448).astype(np.float32)
    codes = (values / scales).astype(FP8)
    stored = scales.transpose(0, 2, 1) if name.endswith("experts.down_proj") else scales
    return {name: codes, f"{name}_scale": stored}, codes.astype(np.float32) * scales


def modelopt_nvfp4(name: str, values: np.ndarray[Any, Any]) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """Any codes and scales will do: what they decode to is what is compared."""
    random = np.random.default_rng(len(name))
    sizes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes = random.integers(0, 16, values.shape, np.uint8)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    small = random.uniform(1, 448, (values.shape[0], values.shape[1] // 16, *values.shape[2:])).astype(FP8)
    whole = np.float32(3e-4)
    scales = np.repeat(small.astype(np.float32) * whole, 16, axis=1)
    stored = {name: packed, scale_name(name): small, f"{scale_name(name)}_2": np.array(whole)}
    return stored, np.concatenate([sizes, -sizes])[codes] * scales


STORED_AS = {"modelopt fp8": modelopt_fp8, "modelopt nvfp4": modelopt_nvfp4, "fbgemm": fbgemm}
