"""Which architectures there are. A further one is a network file, a config file, a weight table and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from twofold.errors import UnsupportedModel
from twofold.models.llama import Block as LlamaBlock
from twofold.models.llama import Llama
from twofold.models.llama4 import Block as Llama4Block
from twofold.models.llama4 import Llama4
from twofold.models.llama4_config import Llama4Config, read_llama4, warnings
from twofold.models.llama4_weights import llama4_targets
from twofold.models.llama_config import LlamaConfig, read_llama
from twofold.models.llama_weights import llama_targets
from twofold.models.network import Architecture


def read_architecture(raw: Mapping[str, object]) -> Architecture:
    """The architecture a config.json describes; UnsupportedModel when it is none of ours."""
    if raw.get("quantization_config") is not None:
        raise UnsupportedModel(
            "config.json has a quantization_config; quantised checkpoints cannot be read yet. "
            "Use the bfloat16 release of this model and choose --dtype w8a8 or w4a8."
        )
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        known = ", ".join(sorted(READERS))
        raise UnsupportedModel(f"config.json: model_type is {kind!r}; these can be run: {known}")
    return READERS[kind](raw)


def llama4(raw: Mapping[str, object]) -> Architecture:
    """Llama 4 text, also inside a multi-modal checkpoint (its images are not read yet)."""
    config: Llama4Config = read_llama4(raw)
    return Architecture(
        name="Llama 4 text",
        family="llama4",
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        context=config.context,
        active_experts=config.active_experts if any(config.moe_layers) else 0,
        expert_count=config.expert_count if any(config.moe_layers) else 0,
        cache_shape=config.cache_shape,
        targets=partial(llama4_targets, config),
        bind=partial(Llama4, config),
        block=partial(Llama4Block, config),
        rope=config.rope,
        epsilon=config.epsilon,
        config=config,
        warnings=warnings(config),
    )


def llama(raw: Mapping[str, object]) -> Architecture:
    """Llama 2 and 3.x; the vocabulary tells them apart (32,000 and 128,256)."""
    config: LlamaConfig = read_llama(raw)
    generation = 2 if config.vocabulary <= 32768 else 3
    return Architecture(
        name=f"Llama {generation}",
        family=f"llama{generation}",
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        context=config.context,
        active_experts=0,
        expert_count=0,
        cache_shape=config.cache_shape,
        targets=partial(llama_targets, config),
        bind=partial(Llama, config),
        block=partial(LlamaBlock, config),
        rope=config.rope,
        epsilon=config.epsilon,
        config=config,
    )


READERS: dict[str, Callable[[Mapping[str, object]], Architecture]] = {
    "llama": llama,
    "llama4": llama4,
    "llama4_text": llama4,
}
