"""Config of Llama 4 text networks: Scout, Maverick, Llama Guard 4 (model_type "llama4" or "llama4_text")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from twofold.errors import UnsupportedModel
from twofold.models.fields import MOST_EXPERTS, Fields, check_heads, read_rope
from twofold.ops.types import CacheShape, Rope, Temperature

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Llama4Config:
    """Sizes and settings of one Llama 4 text network.

    `rope_layers[i]`: layer i rotates its heads (the others are NoPE). `chunks[i]`: its attention chunk, None for the
    whole context. `moe_layers[i]`: it has routed experts and a shared one, else one dense SwiGLU.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    expert_width: int
    dense_width: int
    vocabulary: int
    context: int
    epsilon: float
    tied_head: bool
    rope: Rope
    qk_norm: bool
    temperature: Temperature | None
    expert_count: int
    active_experts: int
    rope_layers: tuple[bool, ...]
    chunks: tuple[int | None, ...]
    moe_layers: tuple[bool, ...]

    @property
    def cache_shape(self) -> CacheShape:
        """Local layers keep one chunk, the others the whole context."""
        return CacheShape(kv_heads=self.kv_heads, head_size=self.head_size, chunks=self.chunks)


def read_llama4(raw: Mapping[str, object]) -> Llama4Config:
    """Read a config.json, whole or text part; raises UnsupportedModel for what this network does not compute."""
    text = raw.get("text_config", raw)
    if not isinstance(text, Mapping):
        raise UnsupportedModel(f"config.json: text_config is {text!r}; an object was expected")
    fields = Fields(text)
    heads, hidden = fields.positive("num_attention_heads"), fields.positive("hidden_size")
    head_size = fields.positive("head_dim", hidden // heads)
    layers = fields.layers()
    fields.must_be("attention_bias", [False, None], False)
    fields.must_be("hidden_act", ["silu"], "silu")
    rope_layers = read_rope_layers(fields, layers)
    moe_layers = read_moe_layers(fields, layers)
    width = fields.positive("intermediate_size")
    config = Llama4Config(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=fields.positive("num_key_value_heads", heads),
        head_size=head_size,
        expert_width=width,
        dense_width=fields.positive("intermediate_size_mlp", width),
        vocabulary=fields.positive("vocab_size"),
        context=fields.positive("max_position_embeddings"),
        epsilon=fields.number("rms_norm_eps", 1e-5),
        tied_head=fields.flag("tie_word_embeddings", False) or bool(raw.get("tie_word_embeddings", False)),
        rope=read_rope(fields, head_size, interleaved=True),
        qk_norm=fields.flag("use_qk_norm", True),
        temperature=read_temperature(fields),
        expert_count=fields.limited("num_local_experts", fields.whole("num_local_experts", 16), MOST_EXPERTS),
        active_experts=fields.whole("num_experts_per_tok", 1),
        rope_layers=rope_layers,
        chunks=read_chunks(fields, rope_layers),
        moe_layers=moe_layers,
    )
    check(config)
    fields.finish()
    return config


def read_rope_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """no_rope_layers reads as its opposite: 1 = rotates. Absent or empty: every interval-th layer is NoPE."""
    listed = fields.whole_list("no_rope_layers")
    interval = fields.positive("no_rope_layer_interval", 4)
    if not listed:
        return tuple((index + 1) % interval != 0 for index in range(layers))
    return tuple(bool(item) for item in of_length(listed, layers, "no_rope_layers"))


def read_moe_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Listed, or every step-th layer; none when there are no experts (Guard 4 has step 0)."""
    step = fields.whole("interleave_moe_layer_step", 1)
    if fields.whole("num_local_experts", 16) == 0:
        fields.value("moe_layers")
        return (False,) * layers
    if fields.has("moe_layers"):
        listed = fields.whole_list("moe_layers")
        return tuple(index in listed for index in range(layers))
    if step == 0:
        raise UnsupportedModel("config.json: interleave_moe_layer_step is 0 although there are experts")
    return tuple((index + 1) % step == 0 for index in range(layers))


def read_chunks(fields: Fields, rope_layers: tuple[bool, ...]) -> tuple[int | None, ...]:
    """Chunk of each layer: rotating layers are local, unless layer_types says otherwise or there is no chunk."""
    types = fields.value("layer_types")
    chunk = fields.positive("attention_chunk_size") if fields.has("attention_chunk_size") else None
    if types is None:
        return tuple(chunk if rotates else None for rotates in rope_layers)
    known = {"chunked_attention": chunk, "full_attention": None}
    if not isinstance(types, list) or not all(isinstance(item, str) and item in known for item in types):
        raise UnsupportedModel(f"config.json: layer_types is {types!r}; each must be one of {', '.join(known)}")
    return tuple(known[item] for item in of_length(types, len(rope_layers), "layer_types"))


def read_temperature(fields: Fields) -> Temperature | None:
    """Query scale of NoPE layers; on unless switched off."""
    floor, scale = fields.positive("floor_scale", 8192), fields.number("attn_scale", 0.1)
    return Temperature(floor=floor, scale=scale) if fields.flag("attn_temperature_tuning", True) else None


def of_length(items: tuple[T, ...] | list[T], layers: int, key: str) -> tuple[T, ...]:
    """The list, if it has one entry per layer."""
    if len(items) != layers:
        raise UnsupportedModel(f"config.json: {key} has {len(items)} entries for {layers} layers")
    return tuple(items)


def check(config: Llama4Config) -> None:
    """Refuse settings that contradict each other."""
    check_heads(config.heads, config.kv_heads, config.head_size)
    if any(config.moe_layers) and not 1 <= config.active_experts <= config.expert_count:
        raise UnsupportedModel(
            f"config.json: num_experts_per_tok is {config.active_experts} of {config.expert_count} experts"
        )


def warnings(config: Llama4Config) -> tuple[str, ...]:
    """What a user should know: Scout files from before 2025-04-09 hold rope factors that Meta corrected."""
    scaling = config.rope.scaling
    if config.expert_count == 16 and scaling and (scaling.factor, scaling.high_freq_factor) == (8.0, 4.0):
        return (
            "this Scout checkpoint has the early rope scaling (factor 8, high 4); Meta corrected it to 16 and 1 "
            "on 2025-04-09. Long answers may suffer: fetch the current config.json.",
        )
    return ()
