"""A Llama 4 of benchmark size with random weights: hidden 2048, 16 experts, as many layers as asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.weights.make import write_checkpoint
from twofold.models.registry import read_architecture

CONFIG: dict[str, Any] = {
    "architectures": ["Llama4ForCausalLM"],
    "model_type": "llama4_text",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 2048,
    "intermediate_size_mlp": 2048,
    "vocab_size": 202048,
    "attention_chunk_size": 8192,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "use_qk_norm": True,
    "tie_word_embeddings": False,
}


def write_scout_mini(folder: Path, layers: int, shards: int = 4) -> int:
    """Write the checkpoint, experts fused; returns its bytes of weights. An existing one is kept."""
    config = {**CONFIG, "num_hidden_layers": layers}
    fused = [f"model.layers.{layer}.feed_forward.experts.gate_up_proj" for layer in range(layers)]
    targets = read_architecture(config).targets(fused)
    shapes = {source.name: source.shape for item in targets for parts in item.sources for source in parts}
    if not (folder / "config.json").exists():
        write_checkpoint(folder, shapes, shards=shards)
        (folder / "config.json").write_text(json.dumps(config))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
