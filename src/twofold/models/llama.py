"""Llama 2 and Llama 3.x: dense decoder with rotary positions and grouped-query attention.

Source: Hugging Face transformers, models/llama/modeling_llama.py; Touvron et al. 2023, Grattafiori et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twofold.models.llama_config import LlamaConfig
from twofold.ops.types import Array, Batch, LayerCache, Weight

if TYPE_CHECKING:
    from twofold.ops.interface import Ops


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: Weight
    qkv: Weight
    output: Weight
    feed_forward_norm: Weight
    gate_up: Weight
    down: Weight


class Llama:
    """A Llama 2 or 3 with its weights; calling it runs one batch."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Weight]) -> None:
        self.config = config
        self.embedding = weights["embedding"]
        self.final_norm = weights["final_norm"]
        self.head = weights["embedding"] if config.tied_head else weights["head"]
        self.blocks = [Block(config, weights, index) for index in range(config.layers)]

    def __call__(self, ops: Ops, batch: Batch, cache: list[LayerCache]) -> Array:
        """Logits of the rows the batch asks for, [R, V]."""
        angles = ops.angles(batch.positions_T, self.config.rope)
        x_TD = ops.embed(self.embedding, batch.tokens_T)
        for block, layer_cache in zip(self.blocks[:-1], cache[:-1], strict=True):
            x_TD = block(ops, x_TD, angles, batch, layer_cache)
        x_RD = self.blocks[-1](ops, x_TD, angles, batch, cache[-1], batch.rows_R)
        return ops.logits(ops.norm(x_RD, self.final_norm, self.config.epsilon), self.head)


class Block:
    """One decoder layer with its weights; calling it runs a batch through it."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Weight], index: int) -> None:
        self.config = config
        self.layer = Layer(**{name: weights[f"layers.{index}.{name}"] for name in Layer.__dataclass_fields__})

    def __call__(
        self, ops: Ops, x_TD: Array, angles: Array, batch: Batch, cache: LayerCache, rows_R: Array | None = None
    ) -> Array:
        """The residual stream after this layer; of the named rows only, where nobody reads the others."""
        attended_TD = self.attention(ops, x_TD, angles, batch, cache)
        if rows_R is not None:
            x_TD, attended_TD = ops.take(x_TD, rows_R), ops.take(attended_TD, rows_R)
        x_TD = ops.add(x_TD, ops.linear(attended_TD, self.layer.output))
        return ops.add(x_TD, self.feed_forward(ops, x_TD))

    def attention(self, ops: Ops, x_TD: Array, angles: Array, batch: Batch, cache: LayerCache) -> Array:
        """Causal attention over the whole context."""
        config, layer = self.config, self.layer
        normed_TD = ops.norm(x_TD, layer.attention_norm, config.epsilon)
        q_THK, k_TGK, v_TGK = ops.split_heads(ops.linear(normed_TD, layer.qkv), config.heads, config.kv_heads)
        q_THK = ops.rotate(q_THK, angles, config.rope)
        k_TGK = ops.rotate(k_TGK, angles, config.rope)
        return ops.attend(q_THK, k_TGK, v_TGK, cache, batch, batch.pages(None), None)

    def feed_forward(self, ops: Ops, x_TD: Array) -> Array:
        """SwiGLU."""
        layer = self.layer
        normed_TD = ops.norm(x_TD, layer.feed_forward_norm, self.config.epsilon)
        return ops.linear(ops.swiglu(ops.linear(normed_TD, layer.gate_up)), layer.down)
