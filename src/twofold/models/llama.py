"""Llama 2 and Llama 3.x: dense decoder with rotary positions and grouped-query attention.

Source: Hugging Face transformers, models/llama/modeling_llama.py; Touvron et al. 2023, Grattafiori et al. 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twofold.models.decoder import Decoder, DecoderBlock
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


class Llama(Decoder):
    """A Llama 2 or 3 with its weights; calling it runs one batch."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Weight]) -> None:
        super().__init__(config, weights, [Block(config, weights, index) for index in range(config.layers)])


class Block(DecoderBlock):
    """One decoder layer with its weights."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Weight], index: int) -> None:
        self.config = config
        self.layer = Layer(**{name: weights[f"layers.{index}.{name}"] for name in Layer.__dataclass_fields__})
        super().__init__(self.layer.output)

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
