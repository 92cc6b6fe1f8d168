"""Networks of any size with random weights, made on the device: no download, no file, nothing in the host's memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from twofold.backends.gpu.build import build
from twofold.backends.gpu.ops import TorchOps
from twofold.backends.gpu.weights import DenseWeight, Fp8Weight, GpuWeight, Int4Weight, Int8Weight, RefinedWeight
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.models.network import Architecture
from twofold.models.registry import read_architecture
from twofold.ops.cost import Footprint, footprint
from twofold.ops.formats import Formats, format_of
from twofold.ops.layout import Format, fields
from twofold.ops.reference import ReferencePacker
from twofold.ops.types import Target
from twofold.quant.schemes import scheme

SCOUT: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "attention_chunk_size": 8192,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 1.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "attn_temperature_tuning": 4,
    "floor_scale": 8192,
    "attn_scale": 0.1,
    "max_position_embeddings": 10485760,
    "rms_norm_eps": 1e-5,
    "vocab_size": 202048,
}
SMALL: dict[str, Any] = {
    **SCOUT,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 768,
    "intermediate_size_mlp": 1024,
    "num_local_experts": 4,
    "attention_chunk_size": 64,
    "floor_scale": 32,
    "vocab_size": 2048,
}
DEVIATION = 0.02
"""Standard deviation of every weight but those of norms, as networks are initialised."""


def network(shape: dict[str, Any], layers: int | None = None) -> Architecture:
    """A Llama 4 of this shape, with some of its layers only."""
    return read_architecture(shape if layers is None else {**shape, "num_hidden_layers": layers})


def formats_of(dtype: str) -> Formats:
    """The formats of a scheme; fp8 means float8 matrices between a bfloat16 embedding and head."""
    if dtype == "fp8":
        return {**scheme("bf16"), **dict.fromkeys(("attention", "dense", "shared", "expert"), "fp8")}
    return scheme(dtype)


def count(architecture: Architecture, dtype: str) -> Footprint:
    """Bytes held and read."""
    return footprint(architecture.targets(()), formats_of(dtype), architecture.active_experts, tied=False)


def random_weights(architecture: Architecture, dtype: str, device: str) -> dict[str, GpuWeight]:
    """Every weight of the network, random."""
    torch.manual_seed(7)
    chosen = formats_of(dtype)
    return {t.name: random_weight(t, format_of(chosen, t), device) for t in architecture.targets(())}


def random_weight(target: Target, form: Format, device: str) -> GpuWeight:
    """Norms are 1, codes are random bytes, floats are normal; values have about DEVIATION."""
    if target.role == "norm":
        return DenseWeight(torch.ones(target.shape, device=device))
    if form in ("f32", "bf16"):
        values = torch.empty(target.shape, dtype=torch.float32 if form == "f32" else torch.bfloat16, device=device)
        return DenseWeight(values.normal_(0, DEVIATION))
    if form == "refined":
        coarse, residual = (random_int4(target.shape, device, share) for share in (1.0, 0.06))
        return RefinedWeight(coarse, residual)
    if form == "int4":
        return random_int4(target.shape, device, 1.0)
    *stack, rows, columns = target.shape
    if form == "fp8":
        values = torch.empty(target.shape, dtype=torch.float8_e4m3fn, device=device)
        flat = values.view(-1, columns)
        for start in range(0, len(flat), 8192):
            some = flat[start : start + 8192]
            some.copy_(torch.randn(some.shape, device=device, dtype=torch.bfloat16).mul_(100).clamp_(-448, 448))
        return Fp8Weight(values, torch.full((*stack, rows), DEVIATION / 100, device=device), target.shape)
    (codes_shape, _), _ = fields("int8", target.shape)
    padded_rows, width = codes_shape[-4] * 16, codes_shape[-3] * 4
    codes = random_bytes((*stack, padded_rows, width), device).view(torch.int8).clamp_(min=-127)
    return Int8Weight(codes, torch.full((*stack, padded_rows), DEVIATION / 73, device=device), target.shape)


def random_int4(shape: tuple[int, ...], device: str, share: float) -> Int4Weight:
    """Random codes and multipliers; their products deviate by about 39."""
    codes_shape = fields("int4", shape)[0][0]
    *stack, panels, groups = codes_shape[:-3]
    rows = panels * 16
    codes = random_bytes((*stack, rows, groups, 16), device)
    multipliers = random_bytes((*stack, rows, groups // 2), device)
    return Int4Weight(codes, multipliers, torch.full((*stack, rows), share * DEVIATION / 39, device=device), shape)


def random_bytes(shape: tuple[int, ...], device: str) -> Tensor:
    """Bytes without a pattern, drawn eight at a time."""
    total = math.prod(shape)
    words = torch.empty(-(-total // 8), dtype=torch.int64, device=device).random_(-(2**63), 2**63 - 1)
    return words.view(torch.uint8)[:total].reshape(shape)


def build_ops(device: str, kv_dtype: Any = "bf16") -> TorchOps:
    """The backend's fastest ops for this device."""
    return build(device, ReferencePacker(), kv_dtype)


def build_engine(
    ops: TorchOps,
    architecture: Architecture,
    weights: dict[str, GpuWeight],
    sequences: int,
    context: int,
    step_tokens: int = 2048,
) -> Engine:
    """An engine with room for so many sequences of this length."""
    shape = architecture.cache_shape
    return Engine(
        ops,
        ops.captured(architecture.bind(weights)),
        shape,
        plan_layout(shape.chunk, sequences * context, step_tokens, sequences),
        EngineLimits(
            context=context, step_tokens=step_tokens, max_sequences=sequences, vocabulary=architecture.vocabulary
        ),
    )
