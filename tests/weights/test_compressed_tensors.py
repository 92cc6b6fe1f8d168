"""compressed-tensors, read bit for bit as the package itself decodes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.codes import Codes
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import codec_of
from twofold.weights.quantised import QuantisedCheckpoint

ROWS, COLUMNS, MODULE = 48, 64, "model.layers.0.mlp.down_proj"
CASES = {
    "fp8 channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8 tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8 block": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 32]},
    ),
    "int8 channel": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "int8 tensor": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}),
    "int8 channel, asymmetric": (
        "int-quantized",
        {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False},
    ),
    "int4 group": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}),
    "int4 group, asymmetric": (
        "pack-quantized",
        {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4 channel": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "channel"}),
    "int8 channel, packed": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
}


def scales_and_zeros(weight: Any, args: dict[str, Any]) -> tuple[Any, Any]:
    """Scales (and zero points) that cover each stretch of the strategy; the exact rule does not matter here."""
    import torch

    if args["strategy"] == "tensor":
        parts = weight.reshape(1, 1, -1)
    elif args["strategy"] == "block":
        a, b = args["block_structure"]
        parts = weight.reshape(ROWS // a, a, COLUMNS // b, b).transpose(1, 2).reshape(ROWS // a, COLUMNS // b, -1)
    else:
        parts = weight.reshape(ROWS, -1, args.get("group_size", COLUMNS))
    largest = 448.0 if args["type"] == "float" else 2.0 ** (args["num_bits"] - 1)
    if args.get("symmetric", True):
        return parts.abs().amax(-1) / largest, None
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    scale = (high - low) / (2 * largest - 1)
    return scale, torch.clamp((-largest - low / scale).round(), -largest, largest - 1).to(torch.int8)


def write_golden(folder: Path, form: str, args: dict[str, Any]) -> tuple[QuantisedCheckpoint, np.ndarray]:
    """A module compressed by the package, and what the package decodes it to."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    compressor = BaseCompressor.get_value_from_registry(form)
    scale, zero = scales_and_zeros(weight, args)
    given = {"weight": weight, "weight_scale": scale} | ({} if zero is None else {"weight_zero_point": zero})
    stored = compressor.compress(given, scheme)
    folder.mkdir(exist_ok=True)
    tensors = {f"{MODULE}.{name}": value.contiguous() for name, value in stored.items()}
    save_file(tensors, folder / "model.safetensors")
    config = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": {"weights": args}}}
    codec = codec_of({"quantization_config": config})
    assert codec is not None
    decoded = compressor.decompress(dict(stored), scheme)["weight"].float().numpy()
    return QuantisedCheckpoint(Checkpoint.open(folder), codec), decoded


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_the_package_decodes(case: str, tmp_path: Path) -> None:
    form, args = CASES[case]
    store, expected = write_golden(tmp_path, form, args)
    name = f"{MODULE}.weight"
    assert list(store.names) == [name]
    assert store.shape(name) == (ROWS, COLUMNS)
    for start, stop in ((0, ROWS), (16, 32), (32, ROWS)):
        rows = store.rows(name, start, stop)
        assert isinstance(rows, Codes) == (store.source_format(name) == "int8")
        values = rows.values() if isinstance(rows, Codes) else rows
        np.testing.assert_array_equal(values, expected[start:stop])
    assert (store.source_format(name) == "int8") == (case.startswith("int8") and "asymmetric" not in case)


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_modules_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    from tests.weights.make import write_shard

    path = tmp_path / "model.safetensors"

    def opened(config: dict[str, Any], **tensors: np.ndarray) -> QuantisedCheckpoint:
        write_shard(path, {f"m.{name}": value for name, value in tensors.items()})
        codec = codec_of({"quantization_config": {"quant_method": "compressed-tensors", **config}})
        assert codec is not None
        return QuantisedCheckpoint(Checkpoint.open(tmp_path), codec)

    packed, scale = {"format": "pack-quantized"}, np.ones((8, 2), np.float32)
    words = np.zeros((8, 4), np.int32)
    with pytest.raises(CheckpointError, match="is missing beside"):
        opened(packed, weight_scale=scale)
    with pytest.raises(CheckpointError, match="with two numbers"):
        opened(packed, weight_scale=scale, weight_packed=words)
    with pytest.raises(CheckpointError, match="does not fit"):
        opened({"format": "float-quantized"}, weight_scale=scale[:3], weight=np.zeros((8, 4), "u1").view("i1"))
    with pytest.raises(UnsupportedModel, match="format is 'sparse-bitmask'"):
        opened({"format": "sparse-bitmask"}, weight_scale=scale)
