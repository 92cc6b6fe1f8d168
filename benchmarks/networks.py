"""The benchmark networks with random weights: a small Llama 4, the shape of Llama 3.2 1B, and toys of both kinds.

python -m benchmarks.networks scout-mini build/scout-mini      8.8 GB of bfloat16 weights, from one seed
twofold pack build/scout-mini -o build/scout-mini-w4a8
twofold bench build/scout-mini-w4a8
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tests.weights.make import write_checkpoint
from twofold.demo import model_folder
from twofold.models.registry import read_architecture

SCOUT_MINI: dict[str, Any] = {
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
LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
TOY_SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
TOY: dict[str, Any] = {
    **SCOUT_MINI,
    **TOY_SIZES,
    "head_dim": 64,
    "num_local_experts": 4,
    "intermediate_size": 256,
    "intermediate_size_mlp": 256,
    "vocab_size": 4096,
}
TOY_DENSE: dict[str, Any] = {**LLAMA_1B, **TOY_SIZES, "head_dim": 64, "intermediate_size": 512, "vocab_size": 4096}
NETWORKS = {"scout-mini": SCOUT_MINI, "llama-1b": LLAMA_1B, "toy": TOY, "toy-dense": TOY_DENSE}


def write_network(config: dict[str, Any], folder: Path, shards: int = 4) -> int:
    """Write a checkpoint with random weights, experts fused; returns bytes of weights. An existing one is kept.

    The demo model's tokenizer is put beside it, so that every verb runs; its ids are a part of the vocabulary.
    """
    layers = config["num_hidden_layers"]
    fused = [f"model.layers.{layer}.feed_forward.experts.gate_up_proj" for layer in range(layers)]
    targets = read_architecture(config).targets(fused)
    shapes = {source.name: source.shape for item in targets for parts in item.sources for source in parts}
    if not (folder / "config.json").exists():
        write_checkpoint(folder, shapes, shards=shards)
        shutil.copyfile(model_folder() / "tokenizer.json", folder / "tokenizer.json")
        (folder / "config.json").write_text(json.dumps(config))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    """Write one of the networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    size = write_network(NETWORKS[arguments.network], arguments.folder)
    print(f"{arguments.folder}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
