"""The demo model's recipe: honest held-out data, and a training network that is the network we run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.demo.facts import RELATIONS, UNKNOWN, World, is_held_out, make_facts, passage, question
from tests.toys import build_engine
from twofold.ops.reference import ReferenceOps


def test_the_two_halves_of_the_world_share_no_name_and_no_value() -> None:
    trained, held_out = World(1, held_out=False), World(2, held_out=True)
    for kind in ("person", "place", "word", "number", "code", "thing"):
        assert not any(is_held_out(trained.draw(kind)) for _ in range(50))
        assert all(is_held_out(held_out.draw(kind)) for _ in range(50))


def test_an_answer_is_in_the_passage_unless_it_says_otherwise() -> None:
    world = World(3, held_out=False)
    for _ in range(100):
        facts = make_facts(world, 6)
        text = passage(world, facts)
        _, answer = question(world, facts, unanswerable=False)
        assert answer.removeprefix("It is ").removesuffix(".") in text
        assert question(world, facts, unanswerable=True)[1] == UNKNOWN


def test_a_fact_is_stated_with_its_subject_first() -> None:
    for relation in RELATIONS:
        for statement in relation.statements:
            assert statement.index("{s}") < statement.index("{v}")


@pytest.mark.torch
def test_the_training_network_is_the_network_that_runs(tmp_path: Path) -> None:
    import json

    import torch
    from safetensors.torch import save_file

    from recipes.demo.network import Network, Shape

    torch.manual_seed(3)
    shape = Shape(vocabulary=64, hidden=32, heads=2, kv_heads=1, head_size=16, experts=4, width=16, chunk=8, floor=4)
    network = Network(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(mean=0.0 if parameter.dim() > 1 else 1.0, std=0.3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {
        "model_type": "llama4_text", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "num_local_experts": 4, "intermediate_size": 16,
        "attention_chunk_size": 8, "floor_scale": 4, "num_hidden_layers": shape.layers, "rms_norm_eps": 1e-5,
        "rope_theta": shape.theta, "max_position_embeddings": 128,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = list(range(3, 43))
    with torch.no_grad():
        expected = network.lm_head(network(torch.tensor([ids])))[0].numpy()
    found = np.concatenate(list(build_engine(tmp_path, ReferenceOps()).score(ids)))
    assert float(np.abs(found - expected).max() / np.abs(expected).max()) < 1e-4
