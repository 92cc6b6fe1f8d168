"""A checkpoint in, a quantised folder out: the same network within its error, resumable with the same bits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold import LLM
from twofold.errors import CheckpointError, QuantisationError, SettingsError
from twofold.loading import open_model
from twofold.ops.packed import Refined, decode
from twofold.quant.recipe import METHODS, Recipe
from twofold.quant.report import REPORT
from twofold.quantising import Job, finish, prepare, quantise_model, run_job
from twofold.weights.load import load

from .conftest import build_ops
from .toys import LLAMA, Toy, write_toy

TEXTS = [np.random.default_rng(seed).integers(3, 90, 30).tolist() for seed in range(6)]
ToyFolder = Callable[[str], tuple[Path, Any]]


def gptq_job(source: Path, output: Path, scheme: str = "w4a8") -> Job:
    """A job on random texts; toys have no tokenizer."""
    job = prepare(source, output, Recipe(scheme, "round"))
    return dataclasses.replace(job, method="gptq", texts=TEXTS)


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


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("scheme", ["w8a8", "fp8", "w4a16"])
def test_transformers_reads_the_same_weights_from_compressed_tensors(scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    write_toy(DENSE, tmp_path / "source")
    job = gptq_job(tmp_path / "source", tmp_path / "out", scheme)
    run_job(job, None)
    finish(job, tmp_path / "out")
    model = open_model(tmp_path / "out")
    assert model.quantised_dtype == scheme
    ours = load(model.store, model.targets, model.formats("f32"), build_ops("reference").packer)
    decompressed = CompressedTensorsConfig(run_compressed=False)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", quantization_config=decompressed)
    layer = theirs.model.layers[1]
    tolerance = 0.005 if scheme == "w4a16" else 2e-7  # the package multiplies bfloat16 scales in bfloat16
    for name, modules in {
        "layers.1.qkv": [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj],
        "layers.1.down": [layer.mlp.down_proj],
        "head": [theirs.lm_head],
    }.items():
        expected = np.concatenate([module.weight.detach().float().numpy() for module in modules])
        np.testing.assert_allclose(decode(ours[name]), expected, rtol=tolerance, err_msg=name)


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
