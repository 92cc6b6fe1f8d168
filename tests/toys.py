"""Tiny random checkpoints that switch on every branch of the networks, written by transformers itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.models.network import Architecture
from twofold.models.registry import read_architecture
from twofold.ops.interface import Ops
from twofold.quant.schemes import scheme
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.load import load

SCOUT_ROPE = {
    "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LLAMA3_ROPE = SCOUT_ROPE | {"factor": 8.0, "high_freq_factor": 4.0}
"""Original contexts are shrunk so that toy-sized positions reach every band of the scaling."""

LLAMA4 = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 32, "intermediate_size_mlp": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4,
    "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "attention_chunk_size": 8, "floor_scale": 4,
    "use_qk_norm": True, "no_rope_layers": [1, 1, 1, 0], "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA = {
    "vocab_size": 90, "hidden_size": 60, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 5,
    "num_key_value_heads": 1, "head_dim": 12, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Toy:
    """A kind of checkpoint: transformers' config class and its values."""

    kind: str
    values: Mapping[str, Any]


TOYS = {
    "maverick": Toy("llama4", {**LLAMA4, "use_qk_norm": False}),
    "interleaved-qk-norm": Toy("llama4", LLAMA4),
    "scout": Toy("llama4", {**LLAMA4, "interleave_moe_layer_step": 1, "rope_scaling": SCOUT_ROPE}),
    "two-active-experts": Toy("llama4", {**LLAMA4, "interleave_moe_layer_step": 1, "num_experts_per_tok": 2}),
    "odd-sizes": Toy(
        "llama4",
        {**LLAMA4, "vocab_size": 91, "hidden_size": 60, "intermediate_size": 20, "intermediate_size_mlp": 44,
         "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12},
    ),
    "guard": Toy(
        "llama4",
        {**LLAMA4, "interleave_moe_layer_step": 0, "moe_layers": [], "no_rope_layers": [1, 1, 1, 1],
         "layer_types": ["full_attention"] * 4, "attention_chunk_size": None},
    ),
    "llama3": Toy("llama", {**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}),
    "llama3-tied": Toy("llama", {**LLAMA, "tie_word_embeddings": True, "rope_scaling": LLAMA3_ROPE}),
    "llama2": Toy("llama", {**LLAMA, "num_key_value_heads": 5}),
}  # fmt: skip


def write_toy(toy: Toy, folder: Path) -> Any:
    """Write a checkpoint of this kind with random weights; returns transformers' own model, in float32."""
    import torch
    from transformers import Llama4ForCausalLM, Llama4TextConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    torch.set_num_threads(1)  # toys are too small to share out; threads that wait for each other took minutes
    config_class, model_class = {
        "llama4": (Llama4TextConfig, Llama4ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[toy.kind]
    values = dict(toy.values)
    if values.get("attention_chunk_size", 0) is None:
        values["attention_chunk_size"] = 4096  # transformers needs a number; beyond any toy it changes nothing
    config = config_class(**deepcopy(values), attn_implementation="eager")  # 5.24 writes into rope_scaling
    model = model_class(config).float().eval()
    with torch.no_grad():  # wider than the usual initialisation, so that every branch moves the logits
        for name, parameter in model.named_parameters():
            wide = 0.3 if parameter.dim() > 1 else 0.2
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 1.0, std=wide)
            assert name
    model.save_pretrained(folder)
    if "attention_chunk_size" in toy.values:
        edit_config(folder, lambda raw: raw.update(attention_chunk_size=toy.values["attention_chunk_size"]))
    return model


def logits_of(model: Any, tokens: list[int]) -> np.ndarray:
    """transformers' logits, float32 [T, V]."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def open_toy(folder: Path) -> tuple[Architecture, Checkpoint]:
    """Its architecture and checkpoint, read by twofold."""
    return read_architecture(read_json(folder, "config.json")), Checkpoint.open(folder)


def build_engine(folder: Path, ops: Ops, dtype: str = "f32", step_tokens: int = 64, max_sequences: int = 8) -> Engine:
    """An engine over a toy checkpoint with a cache for 256 tokens."""
    architecture, checkpoint = open_toy(folder)
    weights = load(checkpoint, architecture.targets(checkpoint.names), scheme(dtype), ops.packer, None)
    shape = architecture.cache_shape
    return Engine(
        ops,
        architecture.bind(weights),
        shape,
        plan_layout(shape.chunk, 256, step_tokens, max_sequences),
        EngineLimits(
            context=64, step_tokens=step_tokens, max_sequences=max_sequences, vocabulary=architecture.vocabulary
        ),
    )


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a toy's config.json."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
