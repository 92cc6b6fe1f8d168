"""Llama 4 text: routed and shared experts, rotary layers with chunked attention, every fourth layer without positions.

Source: llama-models, models/llama4; Hugging Face transformers, models/llama4/modeling_llama4.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twofold.models.decoder import Decoder, DecoderBlock
from twofold.models.llama4_config import Llama4Config
from twofold.ops.types import Array, Batch, LayerCache, Weight

if TYPE_CHECKING:
    from twofold.ops.interface import Ops


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Router and routed experts of one layer."""

    router: Weight
    experts_gate_up: Weight
    experts_down: Weight


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights of one decoder layer and what is special about it.

    `gate_up` and `down` are the shared expert beside routed ones, and the whole feed-forward where there are none.
    """

    attention_norm: Weight
    qkv: Weight
    output: Weight
    feed_forward_norm: Weight
    gate_up: Weight
    down: Weight
    routed: Experts | None
    rotates: bool
    chunk: int | None


class Llama4(Decoder):
    """A Llama 4 text network with its weights; calling it runs one batch."""

    def __init__(self, config: Llama4Config, weights: Mapping[str, Weight]) -> None:
        super().__init__(config, weights, [Block(config, weights, index) for index in range(config.layers)])


class Block(DecoderBlock):
    """One decoder layer with its weights."""

    def __init__(self, config: Llama4Config, weights: Mapping[str, Weight], index: int) -> None:
        self.config = config
        self.layer = gather_layer(config, weights, index)
        super().__init__(self.layer.output)

    def attention(self, ops: Ops, x_TD: Array, angles: Array, batch: Batch, cache: LayerCache) -> Array:
        """Rotary layers: QK-norm after rotation, local chunks. NoPE layers: temperature, the whole context."""
        config, layer = self.config, self.layer
        normed_TD = ops.norm(x_TD, layer.attention_norm, config.epsilon)
        q_THK, k_TGK, v_TGK = ops.split_heads(ops.linear(normed_TD, layer.qkv), config.heads, config.kv_heads)
        if layer.rotates:
            q_THK = ops.rotate(q_THK, angles, config.rope)
            k_TGK = ops.rotate(k_TGK, angles, config.rope)
            if config.qk_norm:
                q_THK = ops.unit_norm(q_THK, config.epsilon)
                k_TGK = ops.unit_norm(k_TGK, config.epsilon)
        elif config.temperature is not None:
            q_THK = ops.temperature(q_THK, batch.positions_T, config.temperature)
        return ops.attend(q_THK, k_TGK, v_TGK, cache, batch, batch.pages(layer.chunk), layer.chunk)

    def feed_forward(self, ops: Ops, x_TD: Array) -> Array:
        """The shared expert (or the dense layer), plus the routed experts where the layer has them."""
        layer, routed = self.layer, self.layer.routed
        normed_TD = ops.norm(x_TD, layer.feed_forward_norm, self.config.epsilon)
        y_TD = ops.linear(ops.swiglu(ops.linear(normed_TD, layer.gate_up)), layer.down)
        if routed is None:
            return y_TD
        chosen_TA, gates_TA = ops.route(normed_TD, routed.router, self.config.active_experts)
        return ops.add(y_TD, ops.experts(normed_TD, chosen_TA, gates_TA, routed.experts_gate_up, routed.experts_down))


def gather_layer(config: Llama4Config, weights: Mapping[str, Weight], index: int) -> Layer:
    """The weights of layer `index`, by name."""

    def weight(name: str) -> Weight:
        return weights[f"layers.{index}.{name}"]

    routed = None
    if config.moe_layers[index]:
        routed = Experts(**{name: weight(name) for name in Experts.__dataclass_fields__})
    names = ("attention_norm", "qkv", "output", "feed_forward_norm", "gate_up", "down")
    return Layer(
        **{name: weight(name) for name in names},
        routed=routed,
        rotates=config.rope_layers[index],
        chunk=config.chunks[index],
    )
