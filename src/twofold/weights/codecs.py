"""Which codec reads a checkpoint, by its quantization_config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.weights.compressed_settings import METHOD
from twofold.weights.compressed_tensors import compressed_tensors_codec
from twofold.weights.gptq_codec import awq_codec, gptq_codec
from twofold.weights.native_codec import NativeCodec
from twofold.weights.quantised import Codec
from twofold.weights.scaled_floats import fbgemm_codec, modelopt_codec
from twofold.weights.strict_json import read_json

NATIVE_METHOD, NATIVE_VERSION = "twofold", 2
MODELOPT_METHOD, MODELOPT_FILE = "modelopt", "hf_quant_config.json"


def codec_of(config: Mapping[str, Any]) -> Codec | None:
    """The codec for a config.json (or None for plain weights); UnsupportedModel names what cannot be read."""
    found = config.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping) or not isinstance(found.get("quant_method"), str):
        raise CheckpointError(
            f"config.json: quantization_config is {found!r}; an object with quant_method was expected"
        )
    method = found["quant_method"]
    if method not in CODECS:
        raise UnsupportedModel(
            f"config.json: this checkpoint is quantised with {method!r}, which cannot be read yet; {', '.join(CODECS)} "
            "can. Use the bfloat16 release of this model and choose --dtype w8a8 or w4a8."
        )
    return CODECS[method](found)


def read_quantised_config(folder: Path) -> dict[str, Any]:
    """config.json, with what ModelOpt's early releases say in a file beside it as its quantization_config."""
    raw = read_json(folder, "config.json")
    if raw.get("quantization_config") is None and (folder / MODELOPT_FILE).exists():
        found = read_json(folder, MODELOPT_FILE).get("quantization")
        if not isinstance(found, Mapping):
            raise CheckpointError(
                f"{folder / MODELOPT_FILE}: quantization is {found!r}; an object was expected. Download it again."
            )
        raw["quantization_config"] = {**found, "quant_method": MODELOPT_METHOD}
    return raw


def native_codec(found: Mapping[str, Any]) -> NativeCodec:
    """The codec of folders written by `twofold quantize`."""
    if found.get("version") != NATIVE_VERSION or not isinstance(found.get("scheme"), str):
        raise CheckpointError(
            f"config.json: quantization_config has version {found.get('version')!r}, {NATIVE_VERSION} was expected; "
            "quantise the original checkpoint again"
        )
    return NativeCodec(found["scheme"])


CODECS: dict[str, Callable[[Mapping[str, Any]], Codec]] = {
    NATIVE_METHOD: native_codec,
    METHOD: compressed_tensors_codec,
    "gptq": gptq_codec,
    "awq": awq_codec,
    MODELOPT_METHOD: modelopt_codec,
    "fbgemm_fp8": fbgemm_codec,
}
