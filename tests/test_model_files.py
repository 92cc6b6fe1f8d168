"""GGUF files from end to end: the same network, tokenizer and answers as the folder they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.networks import TOY, TOY_DENSE, write_network
from tests.toys import LLAMA4, TOYS, Toy, write_toy
from tests.weights.make import write_arrays
from tests.weights.make_gguf import KINDS, write_gguf
from twofold import LLM, SamplingParams
from twofold.backends.cpu.ops import CpuOps
from twofold.demo import model_folder
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.errors import MissingTensor, SettingsError, TokenizerError, WrongTensor
from twofold.loading import open_model, pack_model
from twofold.model_files import FolderFiles, GgufFiles, open_files
from twofold.networks import read_weights
from twofold.quant.recipe import Recipe
from twofold.quantising import quantise_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)
HELLO = [{"role": "user", "content": "Quillmere has 7215 inhabitants.\n\nHow many people live in Quillmere?"}]
IDS = [int(token) for token in np.random.default_rng(3).integers(3, 60, 40)]
SMALL = {"vocab_size": 64, "num_hidden_layers": 2}
NETWORKS: dict[str, dict[str, Any]] = {"llama4": {**TOY, **SMALL}, "llama": {**TOY_DENSE, **SMALL}}
REPRESENTABLE = {
    **{name: toy for name, toy in TOYS.items() if name not in ("maverick",)},
    "maverick": Toy("llama4", {**LLAMA4, "use_qk_norm": False, "num_local_experts": 128}),
}
"""Toys a GGUF file has words for: it knows a Llama 4 without QK-norm only by its 128 experts."""


def logits(path: Path, dtype: str = "f32") -> np.ndarray:
    """Logits after every one of IDS, without a tokenizer."""
    model, ops = open_model(path), CpuOps(kv_dtype="f32")
    weights = read_weights(model, dtype, ops.packer, None)
    architecture = model.architecture
    shape = architecture.cache_shape
    limits = EngineLimits(context=64, step_tokens=16, max_sequences=2, vocabulary=architecture.vocabulary)
    engine = Engine(ops, architecture.bind(weights), shape, plan_layout(shape.chunk, 256, 16, 2), limits)
    return np.concatenate(list(engine.score(IDS)))


@pytest.fixture(scope="module")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in bfloat16, as llama.cpp would convert it."""
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    write_gguf(model_folder(), path, "BF16")
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of random networks, written once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            write_network(NETWORKS[family], made[family], shards=1)
            (made[family] / "tokenizer.json").unlink()
        return made[family]

    return get


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("name", REPRESENTABLE)
def test_every_branch_of_the_networks_gives_the_logits_of_its_folder(name: str, tmp_path: Path) -> None:
    write_toy(REPRESENTABLE[name], tmp_path)
    write_gguf(tmp_path, tmp_path / "m.gguf")
    np.testing.assert_array_equal(logits(tmp_path / "m.gguf"), logits(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", NETWORKS)
def test_every_type_computes_what_its_decoded_values_compute(
    family: str, kind: str, network: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = network(family)
    values = write_gguf(folder, tmp_path / "m.gguf", kind)
    plain = write_arrays(tmp_path / "plain", {name: np.asarray(array) for name, array in values.items()})
    (plain / "config.json").write_text((folder / "config.json").read_text())
    expected = logits(plain)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(logits(tmp_path / "m.gguf"), expected)
    np.testing.assert_array_equal(logits(tmp_path / "m.gguf", "bf16"), logits(plain, "bf16"))


@pytest.mark.parametrize(("kind", "most"), [("F16", 1e-3), ("Q8_0", 0.02), ("Q5_1", 0.15), ("Q4_0", 0.35)])
def test_quantised_files_are_as_near_as_their_formats(
    kind: str, most: float, network: Callable[[str], Path], tmp_path: Path
) -> None:
    """Largest difference relative to the largest logit, float32 arithmetic on both sides."""
    folder = network("llama")
    write_gguf(folder, tmp_path / "m.gguf", kind)
    expected = logits(folder)
    assert np.abs(logits(tmp_path / "m.gguf") - expected).max() / np.abs(expected).max() < most


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K"])
@pytest.mark.parametrize("family", NETWORKS)
def test_four_bit_files_run_as_they_are(family: str, kind: str, network: Callable[[str], Path], tmp_path: Path) -> None:
    """The codes of the file, int8 activations: near the file's own values in float32, and a fraction of bfloat16."""
    write_gguf(network(family), tmp_path / "m.gguf", kind)
    model = open_model(tmp_path / "m.gguf")
    assert model.quantised_dtype == "gguf"
    assert {form for name, form in model.formats("gguf").items() if name.endswith("qkv")} == {"group4"}
    exact = logits(tmp_path / "m.gguf")
    assert np.abs(logits(tmp_path / "m.gguf", "gguf") - exact).max() / np.abs(exact).max() < 0.06
    assert model.footprint("gguf").total_bytes < 0.6 * model.footprint("bf16").total_bytes


@pytest.mark.parametrize("dtype", ["f32", "bf16", "w8a8", "w4a8"])
def test_the_demo_model_computes_the_same_in_every_scheme(demo_gguf: Path, dtype: str) -> None:
    ours, theirs = LLM(demo_gguf, dtype=dtype), LLM("demo", dtype=dtype)
    ids = theirs.encode("The city of Quillmere has 7215 inhabitants. " * 30)  # across an attention chunk
    np.testing.assert_array_equal(ours.logits(ids), theirs.logits(ids))


def test_parts_compute_what_the_whole_computes(network: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(network("llama4"), tmp_path / "m.gguf", "Q8_0")
    write_gguf(network("llama4"), tmp_path / "p.gguf", "Q8_0", split_max_tensors=7)
    parts = sorted(tmp_path.glob("p-*.gguf"))
    assert len(parts) > 3
    np.testing.assert_array_equal(logits(parts[1]), logits(tmp_path / "m.gguf"))


# Answers -------------------------------------------------------------------------------------------------------------


def test_the_demo_model_answers_from_a_gguf_file(demo_gguf: Path) -> None:
    ours, theirs = LLM(str(demo_gguf)), LLM("demo")
    assert ours.loaded.model.eos_ids == theirs.loaded.model.eos_ids
    assert ours.encode_messages(HELLO) == theirs.encode_messages(HELLO)
    assert ours.chat(HELLO, GREEDY).text == theirs.chat(HELLO, GREEDY).text == "It is 7215."


def test_a_gguf_file_drafts_for_the_folder_it_was_made_from(demo_gguf: Path) -> None:
    llm = LLM("demo", draft=demo_gguf)
    assert llm.chat(HELLO, GREEDY).text == "It is 7215."


def test_sampling_defaults_of_the_file_are_taken(tmp_path: Path) -> None:
    write_gguf(
        model_folder(), tmp_path / "m.gguf", "BF16",
        lambda out: (out.add_float32("general.sampling.temp", 0.25), out.add_int32("general.sampling.top_k", 7)),
    )  # fmt: skip
    defaults = open_model(tmp_path / "m.gguf").defaults
    assert (defaults.temperature, defaults.top_k) == (0.25, 7)


def test_the_only_gguf_model_of_a_folder_is_its_model(demo_gguf: Path) -> None:
    (demo_gguf.parent / "README.md").write_text("text")
    assert isinstance(open_files(demo_gguf.parent), GgufFiles)
    assert LLM(demo_gguf.parent).chat(HELLO, GREEDY).text == "It is 7215."


def test_safetensors_beside_a_gguf_file_go_first(demo_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "m.gguf").write_bytes(demo_gguf.read_bytes())
    assert isinstance(open_files(tmp_path), FolderFiles)


# Packing and quantising ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "bf16", "w8a8"])
def test_a_packed_gguf_file_is_a_folder_that_answers_the_same(
    demo_gguf: Path, tmp_path: Path, dtype: str | None
) -> None:
    folder = pack_model(demo_gguf, tmp_path / "packed", dtype)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} < names
    ours, theirs = LLM(folder), LLM("demo", dtype=dtype or "w4a8")
    assert ours.loaded.settings.dtype == (dtype or "w4a8")
    assert ours.encode_messages(HELLO) == theirs.encode_messages(HELLO)
    assert ours.loaded.model.eos_ids == theirs.loaded.model.eos_ids
    ids = theirs.encode("The value of")
    np.testing.assert_array_equal(ours.logits(ids), theirs.logits(ids))


def test_a_gguf_file_is_not_quantised_but_another_way_is_told(demo_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="twofold pack FILE -o FOLDER"):
        quantise_model(demo_gguf, tmp_path / "out", Recipe("w8a8", "round"))


# Damage --------------------------------------------------------------------------------------------------------------


def refused(path: Path, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        logits(path)


@pytest.mark.parametrize(("tensor", "name"), [("blk.1.attn_output", "layers.1.self_attn.o_proj"), ("token_embd",) * 2])
def test_a_missing_weight_is_named(tensor: str, name: str, tmp_path: Path, network: Callable[[str], Path]) -> None:
    write_gguf(network("llama4"), tmp_path / "m.gguf", without=tensor)
    refused(tmp_path / "m.gguf", MissingTensor, name)


def test_sizes_that_are_not_those_of_the_keys_are_told(tmp_path: Path, network: Callable[[str], Path]) -> None:
    write_gguf(network("llama"), tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes()
    key = b"llama.feed_forward_length"
    place = data.index(key) + len(key) + 4
    (tmp_path / "m.gguf").write_bytes(data[:place] + (256).to_bytes(4, "little") + data[place + 4 :])
    refused(tmp_path / "m.gguf", WrongTensor, "gate_proj")


def test_a_file_without_a_vocabulary_is_refused_by_its_key(tmp_path: Path, network: Callable[[str], Path]) -> None:
    write_gguf(network("llama"), tmp_path / "m.gguf", change=lambda out: out.add_tokenizer_model("no_vocab"))
    with pytest.raises(TokenizerError, match="no_vocab"):
        LLM(tmp_path / "m.gguf")


def test_the_config_is_that_of_the_folder(demo_gguf: Path) -> None:
    original = json.loads((model_folder() / "config.json").read_text())
    found = open_files(demo_gguf).config
    same = set(original) & set(found) - {"architectures"}
    assert {name: found[name] for name in same} == {name: original[name] for name in same}
