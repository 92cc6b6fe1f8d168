"""Configs are read strictly, whoever wrote them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.toys import LLAMA, LLAMA4, SCOUT_ROPE
from twofold.errors import UnsupportedModel
from twofold.models.llama4_config import read_llama4
from twofold.models.registry import read_architecture

SCOUT: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "use_qk_norm": True,
        "no_rope_layers": [], "attention_chunk_size": 8192, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "attn_temperature_tuning": 4, "floor_scale": 8192, "attn_scale": 0.1, "max_position_embeddings": 10485760,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False, "vocab_size": 202048,
        "for_llm_compressor": False, "router_aux_loss_coef": 0.001, "use_cache": True,
    },
    "vision_config": {"hidden_size": 1408},
}  # fmt: skip


def scout(**changes: Any) -> dict[str, Any]:
    return {**SCOUT, "text_config": {**SCOUT["text_config"], **changes}}


def test_scout_is_read_as_published() -> None:
    config = read_llama4(SCOUT)
    assert [layer for layer in range(48) if not config.rope_layers[layer]] == list(range(3, 48, 4))
    assert config.chunks[:4] == (8192, 8192, 8192, None)
    assert all(config.moe_layers)
    assert config.temperature is not None
    assert config.qk_norm
    architecture = read_architecture(SCOUT)
    parameters = sum(
        target.shape[0]
        * (target.shape[1] if len(target.shape) > 1 else 1)
        * (target.shape[2] if len(target.shape) > 2 else 1)
        for target in architecture.targets(["language_model.lm_head.weight"])
    )
    assert parameters == 107_769_861_120  # the published text-only size


def test_maverick_interleaves_dense_and_expert_layers() -> None:
    config = read_llama4(
        scout(num_local_experts=128, interleave_moe_layer_step=2, use_qk_norm=False, rope_scaling=None)
    )
    assert [layer for layer in range(48) if config.moe_layers[layer]] == list(range(1, 48, 2))
    assert config.dense_width == 16384


def test_guard_is_dense_and_unchunked() -> None:
    config = read_llama4(
        scout(num_local_experts=0, interleave_moe_layer_step=0, attention_chunk_size=None, no_rope_layers=[1] * 48)
    )
    assert not any(config.moe_layers)
    assert set(config.chunks) == {None}


def test_an_early_scout_file_is_warned_about() -> None:
    early = {**SCOUT["text_config"]["rope_scaling"], "factor": 8.0, "high_freq_factor": 4.0}
    assert "2025-04-09" in read_architecture(scout(rope_scaling=early)).warnings[0]
    assert read_architecture(SCOUT).warnings == ()


def test_transformers_5_spells_rope_differently() -> None:
    old = read_llama4({**LLAMA4, "rope_theta": 1e4, "rope_scaling": SCOUT_ROPE})
    new = read_llama4({**LLAMA4, "rope_parameters": {**SCOUT_ROPE, "rope_theta": 1e4}})
    assert old.rope == new.rope


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_hidden_layers": 2**40 - 1}, "at most 1024"),
    ],
)
def test_what_the_network_does_not_compute_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        read_architecture({"model_type": "llama", **LLAMA, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"no_rope_layers": [1, 0]}, "2 entries for 4 layers"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_attention"),
        ({"layer_types": [["chunked_attention"]] * 4}, "layer_types"),
        ({"num_experts_per_tok": 9}, "9 of 4 experts"),
        ({"num_local_experts": 2**31}, "num_local_experts is 2147483648; at most 1024"),
        ({"interleave_moe_layer_step": 0}, "interleave_moe_layer_step is 0"),
    ],
)
def test_contradictions_in_llama4_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        read_architecture({"model_type": "llama4_text", **LLAMA4, **changes})


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedModel, match="'mistral'; these can be run: llama, llama4, llama4_text"):
        read_architecture({"model_type": "mistral"})


def test_a_quantised_checkpoint_is_refused_with_a_way_out() -> None:
    with pytest.raises(UnsupportedModel, match="--dtype w8a8"):
        read_architecture({"model_type": "llama", **LLAMA, "quantization_config": {"quant_method": "gptq"}})


def test_keys_that_do_not_matter_are_let_through() -> None:
    read_architecture({"model_type": "llama", **LLAMA, "unsloth_version": "2025.1", "some_new_scaling": None})
