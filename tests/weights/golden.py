"""Modules compressed by the compressed-tensors package itself, and what it decodes them to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twofold.ops.codes import Coded

FORMATS = {
    "FP8": "float-quantized",
    "FP8_DYNAMIC": "float-quantized",
    "FP8_BLOCK": "float-quantized",
    "W8A8": "int-quantized",
    "W8A16": "pack-quantized",
    "W4A16": "pack-quantized",
    "W4A16_ASYM": "pack-quantized",
    "NVFP4": "nvfp4-pack-quantized",
    "NVFP4A16": "nvfp4-pack-quantized",
    "MXFP4": "mxfp4-pack-quantized",
}
"""The package's own names of schemes, and the format each is saved in."""
STATIC_INPUTS = {"FP8": "input_scale", "NVFP4": "input_global_scale"}


def preset(name: str, **weights: Any) -> Any:
    """A scheme of the package, with some settings of its weights changed (toys are narrower than its groups)."""
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme

    scheme = preset_name_to_scheme(name, ["Linear"])
    if weights:
        scheme.weights = QuantizationArgs(**{**scheme.weights.model_dump(), **weights})
    return scheme


def config_of(scheme: Any, form: str, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """The quantization_config the package writes for a scheme."""
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format=form, ignore=list(ignore), quantization_status="compressed"
    )
    found: dict[str, Any] = config.model_dump(mode="json")
    return {**found, "quant_method": "compressed-tensors"}


def ranges(weight: Any, args: Any) -> tuple[Any, Any]:
    """Least and largest value of each stretch that has a scale of its own."""
    import torch

    rows, columns = weight.shape
    strategy = args.strategy
    if strategy == "tensor":
        parts = weight.reshape(-1)
    elif strategy == "block":
        a, b = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -columns % b, 0, -rows % a))
        grid = (padded.shape[0] // a, padded.shape[1] // b)
        parts = padded.reshape(grid[0], a, grid[1], b).transpose(1, 2).reshape(*grid, -1)
    else:
        parts = weight.reshape(rows, -1, args.group_size or columns)
    return parts.amin(-1), parts.amax(-1)


def compress(weight: Any, scheme: Any, form: str) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The tensors of a module by their last name, and its weight as the package decodes it, float32."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = scheme.weights
    whole = generate_gparam(weight.min(), weight.max()) if args.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(*ranges(weight, args), args, global_scale=whole)
    if (args.num_bits, args.type) == (4, "int"):
        scale = scale.bfloat16().float()  # as checkpoints have them, which keep them in bfloat16
    given = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    if whole is not None:
        given["weight_global_scale"] = whole
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(given, scheme)
    decoded = compressor.decompress(dict(stored), scheme)["weight"].float().numpy()
    return {name: value.contiguous() for name, value in stored.items()}, decoded


def rounded_alike(values: Mapping[str, Any] | np.ndarray[Any, Any], form: str) -> Any:
    """Four-bit floats are given out by the package in bfloat16: round what is read in the same way."""
    import ml_dtypes

    if not form.startswith(("nvfp4", "mxfp4")):
        return values
    assert isinstance(values, np.ndarray)
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def values_of(rows: Coded | np.ndarray) -> np.ndarray:
    """What rows of a quantised weight stand for, whichever form they come in."""
    return rows if isinstance(rows, np.ndarray) else rows.values()
