"""A checkpoint in, a quantised folder out: the same network within its error, resumable with the same bits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.golden import values_of
from twofold import LLM
from twofold.errors import CheckpointError, QuantisationError, SettingsError
from twofold.loading import open_model
from twofold.ops.packed import Refined, decode
from twofold.quant.recipe import METHODS, Recipe
from twofold.quant.report import REPORT
from twofold.quantised_folder import finish
from twofold.quantising import Job, prepare, quantise_model, run_job
from twofold.weights.load import load
from twofold.weights.packed_file import PackedFile
from twofold.weights.quantised import QuantisedCheckpoint

from .conftest import build_ops
from .toys import LLAMA, LLAMA4, Toy, write_toy

TEXTS = [np.random.default_rng(seed).integers(3, 90, 30).tolist() for seed in range(6)]
ToyFolder = Callable[[str], tuple[Path, Any]]


def gptq_job(source: Path, output: Path, scheme: str = "w4a8") -> Job:
    """A job on random texts; toys have no tokenizer."""
    job = prepare(source, output, Recipe(scheme, "round"))
    return dataclasses.replace(job, recipe=Recipe(job.recipe.scheme), texts=TEXTS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["interleaved-qk-norm", "odd-sizes", "guard", "llama3", "llama3-tied"])
@pytest.mark.parametrize("scheme", ["w4a8", "w8a8", "fp8"])
def test_the_folder_holds_the_network_within_the_error_of_its_bits(
    name: str, scheme: str, toy_folder: ToyFolder, tmp_path: Path
) -> None:
    source, _ = toy_folder(name)
    job = gptq_job(source, tmp_path / "out", scheme)
    run_job(job, None)
    finish(job, tmp_path / "out")
    original, model = open_model(source), open_model(tmp_path / "out")
    assert model.quantised_dtype == scheme
    packer = build_ops("reference").packer
    assert model.store.names != ()
    found = load(model.store, model.targets, model.formats(scheme), packer)
    exact = load(original.store, original.targets, original.formats("f32"), packer)
    for target in original.targets:
        lost = np.square(decode(found[target.name]) - decode(exact[target.name])).sum()
        bound = {"norm": 0, "router": 0, "attention": 0.05}.get(target.role, 0.05)
        assert lost <= bound * np.square(decode(exact[target.name])).sum(), target.name
    assert isinstance(found["embedding"], Refined) == (scheme == "w4a8")
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    matrices = {row["name"]: row for row in report["matrices"]}
    assert matrices["layers.0.qkv"]["method"] == "gptq"
    assert matrices["layers.0.qkv"]["tokens"] == sum(map(len, TEXTS))
    assert sum(target.role == "expert" for target in original.targets) * 4 == sum("experts" in row for row in matrices)


DENSE = Toy(
    "llama",
    {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
     "head_dim": 16},
)  # fmt: skip


EXPERTS = Toy("llama4", {**LLAMA4, "intermediate_size_mlp": 64})
WRITTEN = {"llama": DENSE, "llama4": EXPERTS}
TOLERANCES = {"w8a8": 2e-7, "fp8": 2e-7, "w4a16": 0.005}
"""w4a16: the package multiplies bfloat16 scales in bfloat16."""


def write_quantised(name: str, scheme: str, folder: Path) -> Path:
    """A toy, quantised with GPTQ in one of compressed-tensors' formats."""
    write_toy(WRITTEN[name], folder / "source")
    job = gptq_job(folder / "source", folder / "out", scheme)
    run_job(job, None)
    finish(job, folder / "out")
    return folder / "out"


def our_weights(folder: Path, scheme: str) -> dict[str, np.ndarray[Any, Any]]:
    """What twofold reads back, every weight in float32."""
    model = open_model(folder)
    assert model.quantised_dtype == scheme
    assert not isinstance(model.store, PackedFile)
    loaded = load(model.store, model.targets, model.formats("f32"), build_ops("reference").packer)
    return {name: decode(weight) for name, weight in loaded.items()}


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("scheme", TOLERANCES)
def test_transformers_reads_the_same_weights_from_compressed_tensors(name: str, scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    folder = write_quantised(name, scheme, tmp_path)
    ours = our_weights(folder, scheme)
    decompressed = CompressedTensorsConfig(run_compressed=False)
    theirs = AutoModelForCausalLM.from_pretrained(folder, quantization_config=decompressed)
    layer = theirs.model.layers[1]
    feed_forward = layer.mlp if name == "llama" else layer.feed_forward.shared_expert
    attention = layer.self_attn
    found = {
        "layers.1.qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
        "layers.1.gate_up": [feed_forward.gate_proj, feed_forward.up_proj],
        "layers.1.down": [feed_forward.down_proj],
        "head": [theirs.lm_head],
    }
    for weight, modules in found.items():
        check_alike(ours[weight], modules, scheme)
    if name == "llama4":
        for expert, module in enumerate(layer.feed_forward.experts):
            check_alike(ours["layers.1.experts_gate_up"][expert], [module.gate_proj, module.up_proj], scheme)
            check_alike(ours["layers.1.experts_down"][expert], [module.down_proj], scheme)


def check_alike(ours_ND: np.ndarray[Any, Any], modules: list[Any], scheme: str) -> None:
    """A weight of ours beside the modules whose rows make it up."""
    expected_ND = np.concatenate([module.weight.detach().float().numpy() for module in modules])
    np.testing.assert_allclose(ours_ND, expected_ND, rtol=TOLERANCES[scheme])


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("scheme", TOLERANCES)
def test_the_compressed_tensors_package_decodes_the_same_weights(name: str, scheme: str, tmp_path: Path) -> None:
    """Config and every module through the package itself; nothing is left that it would not know."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file

    folder = write_quantised(name, scheme, tmp_path)
    raw = json.loads((folder / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate({key: value for key, value in raw.items() if key != "quant_method"})
    compressor = BaseCompressor.get_value_from_registry(config.format)
    tensors = {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}
    modules = [key.removesuffix(".weight_scale") for key in tensors if key.endswith(".weight_scale")]
    model = open_model(folder)
    assert isinstance(model.store, QuantisedCheckpoint)
    assert {f"{module}.weight" for module in modules} == set(model.store.parts)
    assert len(modules) > 10
    for module in modules:
        parts = {
            key.removeprefix(f"{module}."): value for key, value in tensors.items() if key.startswith(f"{module}.")
        }
        decoded = compressor.decompress(parts, config.config_groups["group_0"])["weight"].float().numpy()
        rows = model.store.rows(f"{module}.weight", 0, len(decoded))
        np.testing.assert_allclose(values_of(rows), decoded, rtol=TOLERANCES[scheme], err_msg=module)


def test_four_bits_with_group_scales_need_columns_in_groups(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("llama3")
    with pytest.raises(QuantisationError, match="every 128 or 32 columns"):
        quantise_model(source, tmp_path / "out", Recipe("w4a16", "round"))


def test_loading_rounds_nothing_again(toy_folder: ToyFolder, tmp_path: Path) -> None:
    """Weights of the folder are the codes in its files; another --dtype converts them."""
    source, _ = toy_folder("interleaved-qk-norm")
    quantise_model(source, tmp_path / "out", Recipe("w4a8", "round"))
    model = open_model(tmp_path / "out")
    packer = build_ops("reference").packer
    native = load(model.store, model.targets, model.formats("w4a8"), packer)
    exact = load(model.store, model.targets, model.formats("f32"), packer)
    for target in model.targets:
        np.testing.assert_array_equal(decode(native[target.name]), decode(exact[target.name]), target.name)


def test_a_run_that_was_killed_goes_on_with_the_same_bits(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("interleaved-qk-norm")
    whole = gptq_job(source, tmp_path / "whole")
    run_job(whole, None)
    finish(whole, tmp_path / "whole")

    class Killed(Exception):
        pass

    job = gptq_job(source, tmp_path / "again")
    runs = 0
    for stop in range(len(job.units)):

        def kill(unit: str, done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                (job.folder / "model-00009-of-00009.safetensors.tmp").write_bytes(b"cut short")
                raise Killed

        with pytest.raises(Killed):
            run_job(gptq_job(source, tmp_path / "again"), kill)
        runs += 1
    run_job(job, None)
    finish(job, tmp_path / "again")
    assert runs == len(job.units)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert not job.folder.exists()


@pytest.mark.parametrize("call", range(4))
def test_a_run_that_dies_between_its_files_goes_on_with_the_same_bits(
    call: int, toy_folder: ToyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends just before state, record or shard of the second layer get their names."""
    source, _ = toy_folder("interleaved-qk-norm")
    whole = gptq_job(source, tmp_path / "whole")
    run_job(whole, None)
    finish(whole, tmp_path / "whole")
    renamed = 0
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed == 8 + call:  # plan, then two files for the embedding and three for each layer
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        run_job(gptq_job(source, tmp_path / "again"), None)
    monkeypatch.undo()
    job = gptq_job(source, tmp_path / "again")
    run_job(job, None)
    finish(job, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_half_written_folder_of_another_run_is_refused(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("llama3")
    prepare(source, tmp_path / "out", Recipe("w4a8", "round"))
    with pytest.raises(QuantisationError, match="another checkpoint, scheme, calibration"):
        prepare(source, tmp_path / "out", Recipe("w8a8", "round"))


def test_requests_that_make_no_sense_are_refused(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("llama3")
    with pytest.raises(SettingsError, match="exists"):
        prepare(source, tmp_path, Recipe("w4a8", "round"))
    with pytest.raises(SettingsError, match="must be one of"):
        prepare(source, tmp_path / "out", Recipe("w3", "round"))
    with pytest.raises(SettingsError, match="must be one of"):
        prepare(source, tmp_path / "out", Recipe("w4a8", "magic"))
    with pytest.raises(SettingsError, match="needs text"):
        prepare(source, tmp_path / "out", Recipe("w4a8", "gptq"))
    quantise_model(source, tmp_path / "done", Recipe("w4a8", "round"))
    with pytest.raises(SettingsError, match="quantised already"):
        prepare(tmp_path / "done", tmp_path / "out", Recipe("w4a8", "round"))


def test_damaged_modules_are_refused(toy_folder: ToyFolder, tmp_path: Path) -> None:
    from twofold.weights.checkpoint import Checkpoint
    from twofold.weights.write import write_safetensors

    source, _ = toy_folder("llama3")
    quantise_model(source, tmp_path / "out", Recipe("w4a8", "round"))
    path = next((tmp_path / "out").glob("model-00002-*"))
    tensors = {
        name: np.array(Checkpoint.open_files([path]).tensor(name)) for name in Checkpoint.open_files([path]).names
    }
    name = "model.layers.0.self_attn.q_proj.weight_multiplier"
    write_safetensors(path, {**tensors, name: tensors[name][:, :-1]})
    with pytest.raises(CheckpointError, match="belongs to this module"):
        open_model(tmp_path / "out")
    write_safetensors(path, {**tensors, name: np.zeros_like(tensors[name])})
    model = open_model(tmp_path / "out")
    with pytest.raises(CheckpointError, match="multipliers outside"):
        load(model.store, model.targets, model.formats("w4a8"), build_ops("reference").packer)


def test_the_demo_model_keeps_its_words(tmp_path: Path) -> None:
    """Rounded with searched scales, packed, and asked: the whole way without calibration."""
    from twofold.bench.evaluate import evaluate
    from twofold.loading import pack_model

    quantise_model("demo", tmp_path / "quantised", Recipe("w8a8", "round"))
    pack_model(tmp_path / "quantised", tmp_path / "packed", None)
    rows = [{"text": "The quick brown fox jumps over the lazy dog. It is a sentence with every letter."}]
    found = [evaluate(LLM(tmp_path / name), rows, LLM("demo")) for name in ("quantised", "packed")]
    assert found[0] == found[1]
    assert found[0].dtype == "w8a8"
    assert found[0].kl_mean is not None
    assert found[0].kl_mean < 0.01
    assert METHODS == ("gptq", "round")
