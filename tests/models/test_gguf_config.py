"""Keys of GGUF files become the config.json they were made from; what is missing or contradicts is named."""

from __future__ import annotations

from typing import Any

import pytest

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.models.gguf_config import TensorFacts, gguf_config
from twofold.models.llama4_config import Llama4Config
from twofold.models.registry import read_architecture
from twofold.ops.types import Temperature

COMMON = {
    "block_count": 8, "context_length": 4096, "embedding_length": 64, "feed_forward_length": 96,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
    "rope.dimension_count": 16, "rope.freq_base": 500000.0, "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": 99,
}  # fmt: skip
ROUTED = {
    "expert_count": 4,
    "expert_used_count": 1,
    "expert_feed_forward_length": 32,
    "interleave_moe_layer_step": 2,
}
FACTS: dict[str, Any] = {"layers": 8, "experts": 0, "vocabulary": 99, "has_head": True, "rope_divisors": ()}


def config(architecture: str, facts: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The config of these keys, dots of their names written as __; None takes a key away."""
    keys = {**COMMON, **(ROUTED if architecture == "llama4" else {})}
    keys |= {name.replace("__", "."): value for name, value in changes.items()}
    metadata = {f"{architecture}.{name}": value for name, value in keys.items() if value is not None}
    default = {**FACTS, "experts": 4 if architecture == "llama4" else 0}
    return gguf_config(
        {"general.architecture": architecture, "general.file_type": 7, **metadata},
        TensorFacts(**{**default, **(facts or {})}),
    )


def llama4(facts: dict[str, Any] | None = None, **changes: Any) -> Llama4Config:
    found: Llama4Config = read_architecture(config("llama4", facts, **changes)).config
    return found


def test_llama_is_described() -> None:
    found = read_architecture(config("llama", {"has_head": False}))
    assert found.name == "Llama 2"
    wanted = {"hidden": 64, "layers": 8, "heads": 4, "kv_heads": 2, "head_size": 16, "width": 96, "vocabulary": 99,
              "context": 4096, "epsilon": 1e-5, "tied_head": True}  # fmt: skip
    assert {name: getattr(found.config, name) for name in wanted} == wanted
    assert (found.rope.theta, found.rope.interleaved, found.rope.scaling) == (500000.0, False, None)


def test_llama_4_is_described_with_what_llama_cpp_takes_as_given() -> None:
    found = llama4()
    assert (found.expert_width, found.dense_width, found.expert_count, found.active_experts) == (32, 96, 4, 1)
    assert found.moe_layers == (False, True) * 4
    assert found.rope_layers == (True, True, True, False) * 2
    assert found.chunks == (8192, 8192, 8192, None) * 2
    assert found.temperature == Temperature(floor=8192, scale=0.1)
    assert found.rope.interleaved
    assert found.qk_norm


def test_only_128_experts_go_without_qk_norm() -> None:
    assert not llama4({"experts": 128}, expert_count=128).qk_norm


def test_keys_go_before_what_is_taken_as_given() -> None:
    found = llama4(
        attention__sliding_window=16, attention__temperature_length=5, attention__temperature_scale=0.5,
        attention__sliding_window_pattern=4,
    )  # fmt: skip
    assert found.chunks[0] == 16
    assert found.temperature == Temperature(floor=5, scale=0.5)


def test_no_window_means_that_every_layer_rotates_and_sees_everything() -> None:
    found = llama4({"experts": 0}, attention__sliding_window=0, interleave_moe_layer_step=0)
    assert found.rope_layers == (True,) * 8
    assert found.chunks == (None,) * 8
    assert not any(found.moe_layers)


def test_defaults_stand_in_for_optional_keys() -> None:
    optional = {"attention__head_count_kv", "attention__key_length", "attention__value_length", "vocab_size",
                "rope__dimension_count", "rope__freq_base", "block_count"}  # fmt: skip
    found = read_architecture(config("llama", **dict.fromkeys(optional))).config
    assert (found.kv_heads, found.head_size, found.rope.theta, found.vocabulary) == (4, 16, 10000.0, 99)


@pytest.mark.parametrize(
    "name",
    ["context_length", "embedding_length", "feed_forward_length", "attention.head_count",
     "attention.layer_norm_rms_epsilon"],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, 0, -1, "8", float("nan"), [8, 8], True])
def test_a_missing_or_unusable_key_is_named(name: str, value: Any) -> None:
    with pytest.raises(UnsupportedModel, match=f"'llama.{name}' is"):
        config("llama", **{name: value})


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("llama", {"expert_count": 8}, "'llama.expert_count' is 8; only 0"),
        ("llama", {"attention__value_length": 8}, "value_length"),
        ("llama", {"rope__dimension_count": 8}, "rope.dimension_count' is 8; only 16"),
        ("llama", {"rope__scaling__type": "yarn"}, "'yarn'; only 'none'"),
        ("llama", {"rope__scaling__factor": 4.0}, "rope.scaling.factor"),
        ("llama", {"rope__scale_linear": 2.0}, "scale_linear"),
        ("llama", {"attention__causal": False}, "attention.causal"),
        ("llama", {"attention__clamp_kqv": 8.0}, "clamp_kqv' = 8.0 is not known"),
        ("llama", {"attention__sliding_window": 4096}, "sliding_window' = 4096 is not known"),
        ("llama", {"residual_scale": 0.22}, "residual_scale"),
        ("llama4", {"expert_gating_func": 1}, "expert_gating_func' is 1; only 2"),
        ("llama4", {"expert_weights_scale": 2.5}, "expert_weights_scale"),
        ("llama4", {"attention__sliding_window_pattern": [True, False]}, "sliding_window_pattern"),
        ("llama4", {"expert_shared_feed_forward_length": 64}, "expert_shared_feed_forward_length"),
        ("llama4", {"interleave_moe_layer_step": None}, "interleave_moe_layer_step' is missing"),
        ("qwen3", {}, "'general.architecture' is 'qwen3'; llama, llama4 can be run"),
        ("clip", {}, "'clip'"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_key(architecture: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        config(architecture, **changes)


@pytest.mark.parametrize(
    ("architecture", "facts", "words"),
    [
        ("llama", {"layers": 7}, "'llama.block_count' is 8, and the tensors of the file are for 7 layers"),
        ("llama", {"vocabulary": 100}, "vocab_size' is 99.* for 100 tokens"),
        ("llama4", {"experts": 16}, "expert_count' is 4.* for 16 experts"),
        ("llama", {"rope_divisors": [1.0] * 3}, "has 3 numbers; heads of size 16 need 8"),
    ],
)
def test_keys_and_tensors_that_contradict_each_other_are_refused(
    architecture: str, facts: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        config(architecture, facts)
