"""Config of Llama 2 and Llama 3.x checkpoints (model_type "llama")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twofold.models.fields import Fields, check_heads, read_rope
from twofold.ops.types import CacheShape, Rope


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes and settings of one dense Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    width: int
    vocabulary: int
    context: int
    epsilon: float
    tied_head: bool
    rope: Rope

    @property
    def cache_shape(self) -> CacheShape:
        """Every layer keeps the whole context."""
        return CacheShape(kv_heads=self.kv_heads, head_size=self.head_size, chunks=(None,) * self.layers)


def read_llama(raw: Mapping[str, object]) -> LlamaConfig:
    """Read a config.json; raises UnsupportedModel for what this network does not compute."""
    fields = Fields(raw)
    heads = fields.positive("num_attention_heads")
    hidden = fields.positive("hidden_size")
    head_size = fields.positive("head_dim", hidden // heads)
    for key in ("attention_bias", "mlp_bias"):
        fields.must_be(key, [False, None], False)
    fields.must_be("hidden_act", ["silu"], "silu")
    config = LlamaConfig(
        hidden=hidden,
        layers=fields.layers(),
        heads=heads,
        kv_heads=fields.positive("num_key_value_heads", heads),
        head_size=head_size,
        width=fields.positive("intermediate_size"),
        vocabulary=fields.positive("vocab_size"),
        context=fields.positive("max_position_embeddings", 2048),
        epsilon=fields.number("rms_norm_eps", 1e-6),
        tied_head=fields.flag("tie_word_embeddings", False),
        rope=read_rope(fields, head_size, interleaved=False),
    )
    check_heads(config.heads, config.kv_heads, config.head_size)
    fields.finish()
    return config
