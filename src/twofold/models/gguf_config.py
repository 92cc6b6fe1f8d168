"""The metadata of a GGUF file as the config.json it was made from.

Sources: llama.cpp, conversion/llama.py (what is written), src/models/llama.cpp and llama4.cpp (what is taken as given:
chunks and temperature floor of 8192, scale 0.1, every fourth layer without positions, no QK-norm with 128 experts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.models.gguf_rope import find_scaling

ARCHITECTURES = ("llama", "llama4")
LLAMA4_CHUNK = LLAMA4_FLOOR = 8192
LLAMA4_SCALE = 0.1
NOPE_INTERVAL = 4
EXPERTS_WITHOUT_QK_NORM = 128
"""The file has no key for QK-norm; only Maverick is without, and it is told by its experts."""
SIGMOID = 2
HARMLESS = ("rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout")


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """What the tensors of the file say themselves: counts of layers, experts and tokens, whether there is a head,
    and what rotary frequencies are divided by (empty: nothing).
    """  # fmt: skip

    layers: int
    experts: int
    vocabulary: int
    has_head: bool
    rope_divisors: Sequence[float]


class Keys:
    """Typed access to the keys of one architecture; remembers which were asked for."""

    def __init__(self, metadata: Mapping[str, object], architecture: str) -> None:
        self.metadata = metadata
        self.prefix = f"{architecture}."
        self.known = {self.prefix + name for name in HARMLESS}

    def value(self, name: str) -> object:
        """The value of a key, None when absent."""
        self.known.add(self.prefix + name)
        return self.metadata.get(self.prefix + name)

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 <= value < 2**32:
            raise self.wrong(name, value, "a whole number was expected")
        return value

    def positive(self, name: str, default: int | None = None) -> int:
        """A whole number above zero."""
        number = self.whole(name, default)
        if not number:
            raise self.wrong(name, number, "it must be at least 1")
        return number

    def number(self, name: str, default: float | None = None) -> float:
        """A positive finite number."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.wrong(name, value, "a positive number was expected")
        return float(value)

    def must_be(self, name: str, allowed: Sequence[object]) -> None:
        """Refuse a value other than these; an absent key is fine."""
        value = self.value(name)
        if value is not None and value not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            raise UnsupportedModel(f"GGUF key {self.prefix + name!r} is {brief(value)}; only {expected} can be run")

    def must_agree(self, name: str, found: int, what: str) -> None:
        """Refuse a key that contradicts the tensors; an absent key is fine."""
        value = self.value(name)
        if value is not None and (type(value) is not int or value != found):
            raise CheckpointError(
                f"GGUF key {self.prefix + name!r} is {brief(value)}, and the tensors of the file are for {found} "
                f"{what}. The file is damaged; download it again."
            )

    def wrong(self, name: str, value: object, expected: str) -> UnsupportedModel:
        """The error for a missing or unusable value."""
        found = "missing" if value is None else brief(value)
        return UnsupportedModel(
            f"GGUF key {self.prefix + name!r} is {found}; {expected}. Convert or download the model again."
        )

    def finish(self) -> None:
        """Refuse keys of the architecture that nobody asked for, unless they are off."""
        for key, value in self.metadata.items():
            is_off = value is None or value in (False, 0, 1.0, "", "none") or value == []
            if key.startswith(self.prefix) and key not in self.known and not is_off:
                raise UnsupportedModel(
                    f"GGUF key {key!r} = {brief(value)} is not known here and may change what the network computes. "
                    "Use the safetensors release of this model, or ask for it to be supported."
                )


def brief(value: object) -> str:
    """A value as it is shown in a message."""
    shown = repr(value[:8] if isinstance(value, list | str) else value)
    return shown[:100]


def architecture_of(metadata: Mapping[str, object]) -> str:
    """The architecture of a file; UnsupportedModel for one that cannot be run."""
    found = metadata.get("general.architecture")
    if not isinstance(found, str) or found not in ARCHITECTURES:
        raise UnsupportedModel(
            f"GGUF key 'general.architecture' is {brief(found)}; {', '.join(ARCHITECTURES)} can be run"
        )
    return found


def gguf_config(metadata: Mapping[str, object], facts: TensorFacts) -> dict[str, Any]:
    """The config.json of a GGUF model.

    Raises UnsupportedModel, naming the key, for what is missing or cannot be run, CheckpointError where keys and
    tensors contradict each other.
    """
    architecture = architecture_of(metadata)
    keys = Keys(metadata, architecture)
    config = common(keys, facts)
    config |= llama_part(keys) if architecture == "llama" else llama4_part(keys, facts)
    keys.finish()
    return config


def common(keys: Keys, facts: TensorFacts) -> dict[str, Any]:
    """What both architectures have."""
    keys.must_agree("block_count", facts.layers, "layers")
    keys.must_agree("vocab_size", facts.vocabulary, "tokens")
    heads, hidden = keys.positive("attention.head_count"), keys.positive("embedding_length")
    head_size = keys.positive("attention.key_length", max(1, hidden // heads))
    keys.must_be("attention.value_length", [head_size])
    keys.must_be("attention.causal", [True])
    return {
        "hidden_size": hidden,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.positive("attention.head_count_kv", heads),
        "head_dim": head_size,
        "vocab_size": facts.vocabulary,
        "max_position_embeddings": keys.positive("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "tie_word_embeddings": not facts.has_head,
        **rope_part(keys, facts, head_size),
    }


def rope_part(keys: Keys, facts: TensorFacts, head_size: int) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies."""
    keys.must_be("rope.dimension_count", [head_size])
    keys.must_be("rope.scaling.type", ["none"])
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        keys.must_be(name, [0, 1])
    theta = keys.number("rope.freq_base", 10000.0)
    if not facts.rope_divisors:
        return {"rope_theta": theta}
    if len(facts.rope_divisors) != head_size // 2:
        raise CheckpointError(
            f"tensor rope_freqs.weight has {len(facts.rope_divisors)} numbers; heads of size {head_size} need "
            f"{head_size // 2}. The file is damaged; download it again."
        )
    scaling = find_scaling(facts.rope_divisors, theta)
    if scaling is None:
        return {"rope_theta": theta}
    return {
        "rope_theta": theta,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        },
    }


def llama_part(keys: Keys) -> dict[str, Any]:
    """Llama 2 and 3; the same architecture with experts is Mixtral."""
    keys.must_be("expert_count", [0])
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "intermediate_size": keys.positive("feed_forward_length"),
    }


def llama4_part(keys: Keys, facts: TensorFacts) -> dict[str, Any]:
    """Experts, chunks and temperature. sliding_window 0 says that every layer sees, and rotates, the whole context."""
    step = keys.whole("interleave_moe_layer_step")
    if step or facts.experts:  # without expert layers the count stands for nothing
        keys.must_agree("expert_count", facts.experts, "experts")
    keys.value("expert_count")
    keys.must_be("expert_gating_func", [SIGMOID])
    keys.must_be("expert_weights_scale", [0, 1])
    keys.must_be("attention.sliding_window_pattern", [NOPE_INTERVAL])
    dense = keys.positive("feed_forward_length")
    width = keys.positive("expert_feed_forward_length", dense)
    keys.must_be("expert_shared_feed_forward_length", [0, width])
    chunk = keys.whole("attention.sliding_window", LLAMA4_CHUNK)
    layers = facts.layers
    return {
        "model_type": "llama4_text",
        "architectures": ["Llama4ForCausalLM"],
        "intermediate_size": width,
        "intermediate_size_mlp": dense,
        "num_local_experts": facts.experts,
        "num_experts_per_tok": keys.whole("expert_used_count", 1),
        "interleave_moe_layer_step": step,
        "use_qk_norm": facts.experts != EXPERTS_WITHOUT_QK_NORM,
        "no_rope_layers": [int(not chunk or (index + 1) % NOPE_INTERVAL != 0) for index in range(layers)],
        "attention_chunk_size": chunk or None,
        "attn_temperature_tuning": True,
        "floor_scale": keys.positive("attention.temperature_length", LLAMA4_FLOOR),
        "attn_scale": keys.number("attention.temperature_scale", LLAMA4_SCALE),
    }
