"""Reads a checkpoint's config.json strictly: every value typed, every unknown key that could matter refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from twofold.errors import UnsupportedModel
from twofold.ops.types import Rope, RopeScaling

HARMLESS = frozenset(
    [
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "model_type",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "for_llm_compressor",
        "name_or_path",
        "_name_or_path",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "is_decoder",
        "is_encoder_decoder",
        "chunk_size_feed_forward",
    ]
)
"""Keys that are about training, caching or the file itself; they do not change what is computed."""

MOST_LAYERS, MOST_EXPERTS = 1024, 1024
"""More than any Llama has: tables are made for every layer and expert, which a damaged number must not make endless."""

SPEAKS_OF_THE_NETWORK = re.compile(
    "attention|attn|rope|rotary|norm|scal|multiplier|softcap|bias|expert|moe|router|window|head|layer|hidden|"
    "intermediate|position|embedding|residual|act|tie|quant|parallel"
)


class Fields:
    """Typed access to a config's keys; remembers which were asked for, so that `finish` can name the others."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the key is present with a value other than null."""
        self._known.add(key)
        return self._raw.get(key) is not None

    def value(self, key: str) -> object:
        """The raw value, None when absent."""
        self._known.add(key)
        return self._raw.get(key)

    def positive(self, key: str, default: int | None = None) -> int:
        """A whole number above zero."""
        number = self.whole(key, default)
        if number < 1:
            raise UnsupportedModel(f"config.json: {key} is {number}; it must be at least 1")
        return number

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number >= 0, or the default when absent or null."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
            raise UnsupportedModel(f"config.json: {key} is {value!r}; a whole number was expected")
        return value

    def layers(self) -> int:
        """num_hidden_layers, within reason."""
        return self.limited("num_hidden_layers", self.positive("num_hidden_layers"), MOST_LAYERS)

    def limited(self, key: str, value: int, most: int) -> int:
        """The value of a key, if it is at most so much."""
        if value > most:
            raise UnsupportedModel(f"config.json: {key} is {value}; at most {most} can be run")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number, or the default when absent or null."""
        value = self.value(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UnsupportedModel(f"config.json: {key} is {value!r}; a positive number was expected")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; early Llama 4 files write a number for true."""
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool | int):
            raise UnsupportedModel(f"config.json: {key} is {value!r}; true or false was expected")
        return bool(value)

    def whole_list(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; () when absent or null."""
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise UnsupportedModel(f"config.json: {key} is {value!r}; a list of whole numbers was expected")
        return tuple(int(item) for item in value)

    def must_be(self, key: str, allowed: Iterable[object], default: object) -> None:
        """Refuse a setting whose other values are not implemented."""
        value = self._raw.get(key, default)
        self._known.add(key)
        allowed = list(allowed)
        if value not in allowed:
            expected = " or ".join(repr(item) for item in allowed)
            raise UnsupportedModel(f"config.json: {key} is {value!r}; only {expected} can be run")

    def finish(self) -> None:
        """Refuse keys nobody asked for whose names speak of the network, unless they are off."""
        for key, value in self._raw.items():
            unknown = key not in self._known and key not in HARMLESS
            if unknown and value not in (None, False, 0, 1.0, [], {}) and SPEAKS_OF_THE_NETWORK.search(key):
                raise UnsupportedModel(
                    f"config.json: {key} = {value!r} is not known here and may change what the network computes. "
                    "Remove the key if it does not, or ask for it to be supported."
                )


def read_rope(fields: Fields, head_size: int, interleaved: bool) -> Rope:
    """Rope from rope_theta + rope_scaling (transformers 4) or rope_parameters (transformers 5)."""
    parameters = fields.value("rope_parameters")
    scaling = fields.value("rope_scaling") if parameters is None else parameters
    theta = fields.number("rope_theta", 10000.0)
    if scaling is None:
        return Rope(head_size=head_size, theta=theta, interleaved=interleaved)
    if not isinstance(scaling, dict):
        raise UnsupportedModel(f"config.json: rope scaling is {scaling!r}; an object was expected")
    inner = Fields(scaling)
    theta = inner.number("rope_theta", theta)
    kind = inner.value("rope_type") or inner.value("type") or "default"
    if kind == "default":
        return Rope(head_size=head_size, theta=theta, interleaved=interleaved)
    if kind != "llama3":
        raise UnsupportedModel(f"config.json: rope type is {kind!r}; 'default' and 'llama3' can be run")
    stretched = RopeScaling(
        factor=inner.number("factor"),
        low_freq_factor=inner.number("low_freq_factor"),
        high_freq_factor=inner.number("high_freq_factor"),
        original_context=inner.positive("original_max_position_embeddings"),
    )
    return Rope(head_size=head_size, theta=theta, interleaved=interleaved, scaling=stretched)


def check_heads(heads: int, kv_heads: int, head_size: int) -> None:
    """Refuse head counts that do not divide and head sizes rotary pairs cannot cover."""
    if heads % kv_heads:
        raise UnsupportedModel(f"config.json: {heads} attention heads cannot share {kv_heads} key-value heads evenly")
    if head_size % 2:
        raise UnsupportedModel(f"config.json: head size {head_size} is odd; rotary positions need pairs")
