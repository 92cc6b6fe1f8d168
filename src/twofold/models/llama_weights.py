"""Where a Hugging Face Llama 2 or 3 checkpoint holds each weight."""

from __future__ import annotations

from collections.abc import Collection

from twofold.models.llama_config import LlamaConfig
from twofold.models.network import stacked, vector
from twofold.ops.types import Role, Target


def llama_targets(config: LlamaConfig, names: Collection[str]) -> list[Target]:
    """The weight table, in the order the forward pass reads it."""
    del names  # one layout only
    hidden, vocabulary = config.hidden, config.vocabulary
    embedding = stacked([("model.embed_tokens.weight", vocabulary)], hidden)
    targets = [Target(name="embedding", role="embedding", shape=(vocabulary, hidden), sources=(embedding,))]
    for index in range(config.layers):
        targets += layer_targets(config, index)
    targets.append(vector("final_norm", "model.norm.weight", hidden))
    if not config.tied_head:
        head = stacked([("lm_head.weight", vocabulary)], hidden)
        targets.append(Target(name="head", role="head", shape=(vocabulary, hidden), sources=(head,)))
    return targets


def layer_targets(config: LlamaConfig, index: int) -> list[Target]:
    """Weights of one layer; q, k and v are joined, and so are gate and up, because they read the same input."""
    ours, theirs = f"layers.{index}", f"model.layers.{index}"
    hidden, width = config.hidden, config.width
    q_rows, kv_rows = config.heads * config.head_size, config.kv_heads * config.head_size

    def weight(name: str, columns: int, *parts: tuple[str, int]) -> Target:
        sources = stacked([(f"{theirs}.{part}.weight", rows) for part, rows in parts], columns)
        rows = sum(source.rows for source in sources)
        role: Role = "attention" if name in ("qkv", "output") else "dense"
        return Target(name=f"{ours}.{name}", role=role, shape=(rows, columns), sources=(sources,))

    attention = "self_attn"
    return [
        vector(f"{ours}.attention_norm", f"{theirs}.input_layernorm.weight", hidden),
        weight(
            "qkv",
            hidden,
            (f"{attention}.q_proj", q_rows),
            (f"{attention}.k_proj", kv_rows),
            (f"{attention}.v_proj", kv_rows),
        ),
        weight("output", q_rows, (f"{attention}.o_proj", hidden)),
        vector(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm.weight", hidden),
        weight("gate_up", hidden, ("mlp.gate_proj", width), ("mlp.up_proj", width)),
        weight("down", width, ("mlp.down_proj", hidden)),
    ]
