"""The toy networks go through the GGUF writer and come back from the gguf package's reader."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf import GGUFReader

from benchmarks.networks import TOY, TOY_DENSE, write_network
from benchmarks.peers.gguf_file import check, interleave, read_sizes, write_gguf
from twofold.weights.checkpoint import Checkpoint

BOTH = {"toy": TOY, "toy-dense": TOY_DENSE}


@pytest.fixture(scope="module", params=BOTH)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, GGUFReader]:
    folder = tmp_path_factory.mktemp("network")
    write_network(BOTH[request.param], folder, shards=2)
    write_gguf(folder, folder / "plain.gguf")
    assert not list(folder.glob("*.partial"))
    return Checkpoint.open(folder), GGUFReader(folder / "plain.gguf")


def values(reader: GGUFReader, name: str) -> np.ndarray:
    tensor = next(item for item in reader.tensors if item.name == name)
    shape = tuple(int(size) for size in reversed(tensor.shape))
    if tensor.tensor_type.name == "F32":
        return np.asarray(tensor.data).reshape(shape)
    assert tensor.tensor_type.name == "BF16"
    return np.ascontiguousarray(tensor.data).view(ml_dtypes.bfloat16).reshape(shape).astype(np.float32)


def test_every_parameter_arrives(written: tuple[Checkpoint, GGUFReader]) -> None:
    checkpoint, reader = written
    theirs = sum(int(np.prod(checkpoint.shape(name))) for name in checkpoint.names)
    assert sum(int(tensor.n_elements) for tensor in reader.tensors) == theirs


def test_matrices_norms_and_the_embedding_keep_their_values(written: tuple[Checkpoint, GGUFReader]) -> None:
    checkpoint, reader = written
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.3.attn_norm.weight": "model.layers.3.input_layernorm.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.2.attn_output.weight": "model.layers.2.self_attn.o_proj.weight",
        "output_norm.weight": "model.norm.weight",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(values(reader, ours), checkpoint.tensor(theirs).astype(np.float32), err_msg=ours)


def test_the_settings_are_llama_cpps(written: tuple[Checkpoint, GGUFReader]) -> None:
    _, reader = written
    architecture = reader.get_field("general.architecture").contents()
    found = {name: reader.get_field(f"{architecture}.{name}").contents() for name in ("vocab_size", "block_count")}
    assert found == {"vocab_size": 4096, "block_count": 4}
    assert reader.get_field("tokenizer.ggml.model").contents() == "no_vocab"
    if architecture == "llama4":
        assert reader.get_field("llama4.expert_count").contents() == 4
        assert reader.get_field("llama4.interleave_moe_layer_step").contents() == 1


def test_experts_are_split_and_transposed(tmp_path: Path) -> None:
    write_network(TOY, tmp_path)
    write_gguf(tmp_path, tmp_path / "plain.gguf")
    checkpoint, reader = Checkpoint.open(tmp_path), GGUFReader(tmp_path / "plain.gguf")
    both = checkpoint.tensor("model.layers.0.feed_forward.experts.gate_up_proj").astype(np.float32)
    down = checkpoint.tensor("model.layers.0.feed_forward.experts.down_proj").astype(np.float32)
    width = both.shape[-1] // 2
    for expert in range(len(both)):
        np.testing.assert_array_equal(values(reader, "blk.0.ffn_gate_exps.weight")[expert], both[expert, :, :width].T)
        np.testing.assert_array_equal(values(reader, "blk.0.ffn_up_exps.weight")[expert], both[expert, :, width:].T)
        np.testing.assert_array_equal(values(reader, "blk.0.ffn_down_exps.weight")[expert], down[expert].T)
    router = checkpoint.tensor("model.layers.0.feed_forward.router.weight").astype(np.float32)
    np.testing.assert_array_equal(values(reader, "blk.0.ffn_gate_inp.weight"), router)


def test_queries_and_keys_of_llama_turn_as_neighbours() -> None:
    rows = np.arange(2 * 6, dtype=np.float32).reshape(12, 1)  # two heads of six: halves 0..2 and 3..5
    assert interleave(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_llama_4_keeps_the_order_of_its_rows(tmp_path: Path) -> None:
    write_network(TOY, tmp_path)
    write_gguf(tmp_path, tmp_path / "plain.gguf")
    exact = Checkpoint.open(tmp_path).tensor("model.layers.0.self_attn.q_proj.weight").astype(np.float32)
    np.testing.assert_array_equal(values(GGUFReader(tmp_path / "plain.gguf"), "blk.0.attn_q.weight"), exact)


def test_sizes_count_experts_apart_and_an_embedding_only_as_head(tmp_path: Path) -> None:
    for name, config in BOTH.items():
        folder = tmp_path / name
        write_network(config, folder)
        write_gguf(folder, folder / "plain.gguf")
        sizes = read_sizes(folder / "plain.gguf")
        total = sum(int(tensor.n_bytes) for tensor in GGUFReader(folder / "plain.gguf").tensors)
        embedding = 2 * config["vocab_size"] * config["hidden_size"]
        experts = 2 * 3 * 4 * 4 * 256 * 256 if name == "toy" else 0
        assert sizes.expert_bytes == experts
        assert sizes.once_bytes == total - experts - (0 if config["tie_word_embeddings"] else embedding)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling"),
        ({"attention_chunk_size": 64}, "attention_chunk_size"),
    ],
)
def test_a_network_llama_cpp_has_no_words_for_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check({**json.loads(json.dumps(TOY)), **change})
