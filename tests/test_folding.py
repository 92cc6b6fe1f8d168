"""Transforms folded into the weights leave the network what it was, and the folder an ordinary one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.errors import QuantisationError, SettingsError
from twofold.folding import fold_unit, untie, untied
from twofold.layerwise import LayerRunner
from twofold.loading import Model, open_model
from twofold.ops.packed import Packed, decode
from twofold.quant.recipe import Recipe
from twofold.quant.report import REPORT
from twofold.quant.rotate import make_rotations
from twofold.quant.units import cut
from twofold.quantised_folder import finish
from twofold.quantising import Job, prepare, quantise_model, run_job
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.load import load
from twofold.weights.write import write_safetensors

from .conftest import build_ops
from .toys import TOYS

TEXTS = [np.random.default_rng(seed).integers(3, 90, 30).tolist() for seed in range(4)]
NAMES = [
    "interleaved-qk-norm",
    "maverick",
    "two-active-experts",
    "odd-sizes",
    "guard",
    "llama2",
    "llama3",
    "llama3-tied",
]
ToyFolder = Callable[[str], tuple[Path, Any]]


def fold_all(model: Model, transform: str, is_uneven: bool = False) -> dict[str, Packed]:
    """Every weight in float32 with the transform folded in, layer by layer as in a run; uneven channels if wanted."""
    ops = build_ops("reference")
    runner = LayerRunner(model.architecture, ops, TEXTS)
    weights: dict[str, Packed] = {}
    before = None
    for unit in cut(model.targets):
        mine = load(model.store, unit.targets, dict.fromkeys([t.name for t in unit.targets], "f32"), ops.packer)
        for target in unit.targets:
            if is_uneven and target.role == "norm":
                mine[target.name].values[:] *= np.exp(np.random.default_rng(9).standard_normal(target.shape))
        fold_unit(transform, model, unit, mine, runner, before)
        before = runner.run(unit, mine, before)
        weights |= mine
    return weights


def logits(model: Model, weights: dict[str, Packed]) -> np.ndarray:
    shape = model.architecture.cache_shape
    limits = EngineLimits(context=64, step_tokens=64, max_sequences=1, vocabulary=model.architecture.vocabulary)
    layout = plan_layout(shape.chunk, 64, 64, 1)
    engine = Engine(build_ops("reference"), model.architecture.bind(weights), shape, layout, limits)
    return np.concatenate([*engine.score(TEXTS[0])])


@pytest.mark.parametrize("name", NAMES)
def test_a_rotated_network_computes_the_same(name: str, toy_folder: ToyFolder) -> None:
    model = open_model(toy_folder(name)[0])
    expected = logits(model, fold_all(model, "none"))
    rotated = untied(model, model.store)
    weights = fold_all(rotated, "rotate")
    found = logits(rotated, weights)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()  # float32 sums in another basis
    norms = [decode(weights[target.name]) for target in rotated.targets if target.role == "norm"]
    assert all((norm == 1).all() for norm in norms)
    moved = np.abs(decode(weights["layers.1.qkv"]) - decode(fold_all(model, "none")["layers.1.qkv"]))
    assert moved.max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_smoothed_network_computes_the_same_to_the_bit(name: str, toy_folder: ToyFolder) -> None:
    model = open_model(toy_folder(name)[0])
    plain, smoothed = fold_all(model, "none", is_uneven=True), fold_all(model, "smooth", is_uneven=True)
    np.testing.assert_array_equal(logits(model, smoothed), logits(model, plain))
    changed = {
        name.rpartition(".")[2] for name in plain if not np.array_equal(decode(plain[name]), decode(smoothed[name]))
    }
    kinds = {name.rpartition(".")[2] for name in plain}
    assert changed == kinds - {"embedding"} - ({"final_norm"} if model.has_tied_head else set())


def quantised(source: Path, output: Path, scheme: str, transform: str, method: str = "gptq") -> Model:
    job: Job = prepare(source, output, Recipe(scheme, "round", transform="rotate" if transform == "rotate" else "none"))
    job = dataclasses.replace(job, recipe=Recipe(scheme, method, transform=transform), texts=TEXTS)
    run_job(job, None)
    finish(job, output)
    return open_model(output)


@pytest.mark.parametrize("transform", ["rotate", "smooth"])
@pytest.mark.parametrize("scheme", ["w4a8", "w8a8", "fp8"])
@pytest.mark.parametrize("name", ["interleaved-qk-norm", "llama3", "llama3-tied"])
def test_the_written_folder_is_the_folded_network_within_the_error_of_its_bits(
    name: str, scheme: str, transform: str, toy_folder: ToyFolder, tmp_path: Path
) -> None:
    model = quantised(toy_folder(name)[0], tmp_path / "out", scheme, transform)
    original = open_model(toy_folder(name)[0])
    if transform == "rotate":
        original = untied(original, original.store)
    assert model.has_tied_head == original.has_tied_head
    exact = fold_all(original, "rotate") if transform == "rotate" else None
    found = load(model.store, model.targets, model.formats(scheme), build_ops("reference").packer)
    for target in original.targets if exact else ():
        expected = decode(exact[target.name])
        lost = np.square(decode(found[target.name]) - expected).sum()
        bound = 0 if target.role == "norm" else 1e-12 if target.role == "router" else 0.05
        assert lost <= bound * np.square(expected).sum(), target.name
    reach = np.abs(logits(model, found) - logits(original, fold_all(original, "none")))
    size = np.abs(logits(original, fold_all(original, "none"))).max()
    assert np.sqrt(np.square(reach).mean()) < {"w4a8": 0.25, "w8a8": 0.06, "fp8": 0.12}[scheme] * size
    assert json.loads((tmp_path / "out" / REPORT).read_text())["transform"] == transform


def test_a_tied_head_gets_tensors_of_its_own_when_rotated(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source = toy_folder("llama3-tied")[0]
    model = quantised(source, tmp_path / "out", "w8a8", "rotate", "round")
    assert read_json(tmp_path / "out", "config.json")["tie_word_embeddings"] is False
    assert "lm_head.weight" in model.store.names
    assert untie({"text_config": {"tie_word_embeddings": True}})["text_config"]["tie_word_embeddings"] is False
    # The embedding is no head any more, so compressed-tensors can say what the folder is.
    assert read_json(tmp_path / "out", "config.json")["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "scheme", "transform"),
    [("llama3-tied", "w8a8", "rotate"), ("llama3-tied", "fp8", "rotate"), ("llama3", "w8a8", "smooth")],
)
def test_transformers_runs_a_transformed_folder(
    name: str, scheme: str, transform: str, toy_folder: ToyFolder, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    source, oracle = toy_folder(name)
    quantised(source, tmp_path / "out", scheme, transform)
    decompressed = CompressedTensorsConfig(run_compressed=False)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", quantization_config=decompressed).float()
    assert ("lm_head" in read_json(tmp_path / "out", "config.json")["quantization_config"]["ignore"]) == (
        scheme == "fp8"
    )
    with torch.no_grad():
        found, expected = (model(torch.tensor([TEXTS[0]])).logits.numpy() for model in (theirs, oracle))
    assert np.sqrt(np.square(found - expected).mean()) < 0.06 * np.abs(expected).max()


def test_a_run_with_a_transform_goes_on_with_the_same_bits(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source = toy_folder("interleaved-qk-norm")[0]

    class Killed(Exception):
        pass

    def kill(unit: str, done: int, total: int) -> None:
        if done == 3:
            raise Killed

    for transform in ("rotate", "smooth"):
        quantised(source, tmp_path / f"whole-{transform}", "w4a8", transform)
        job = prepare(source, tmp_path / f"again-{transform}", Recipe("w4a8", "round", transform="none"))
        job = dataclasses.replace(job, recipe=Recipe("w4a8", transform=transform), texts=TEXTS)
        with pytest.raises(Killed):
            run_job(job, kill)
        run_job(job, None)
        finish(job, tmp_path / f"again-{transform}")
        whole, again = (
            {path.name: path.read_bytes() for path in (tmp_path / f"{name}-{transform}").iterdir()}
            for name in ("whole", "again")
        )
        assert whole == again


def test_a_run_with_another_transform_is_another_run(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source = toy_folder("llama3")[0]
    prepare(source, tmp_path / "out", Recipe("w4a8", "round"))
    with pytest.raises(QuantisationError, match="transform"):
        prepare(source, tmp_path / "out", Recipe("w4a8", "round", transform="rotate"))
    with pytest.raises(SettingsError, match="must be one of none, rotate, smooth"):
        prepare(source, tmp_path / "other", Recipe("w4a8", "round", transform="turn"))
    with pytest.raises(SettingsError, match="needs text"):
        prepare(source, tmp_path / "other", Recipe("w4a8", "round", transform="smooth"))


def with_projector(source: Path, folder: Path, shape: tuple[int, ...]) -> Path:
    """The toy with what turns images into rows of its residual stream."""
    shutil.copytree(source, folder)
    projector = {"multi_modal_projector.linear_1.weight": np.ones(shape, np.float32)}
    write_safetensors(folder / "projector.safetensors", projector)
    (folder / "model.safetensors").rename(folder / "network.safetensors")
    return folder


def test_what_writes_images_into_the_stream_is_rotated_too(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source = with_projector(toy_folder("interleaved-qk-norm")[0], tmp_path / "source", (64, 10))
    quantise_model(source, tmp_path / "out", Recipe("w8a8", "round", transform="rotate"))
    name = "multi_modal_projector.linear_1.weight"
    found = Checkpoint.open(tmp_path / "out").tensor(name)
    stream = make_rotations(TOYS["interleaved-qk-norm"].values["hidden_size"], 16, 2).stream
    np.testing.assert_allclose(found, stream.turn(np.ones((10, 64))).T, rtol=1e-6)
    odd = with_projector(toy_folder("interleaved-qk-norm")[0], tmp_path / "odd", (10, 64))
    with pytest.raises(QuantisationError, match="64 rows"):
        prepare(odd, tmp_path / "odd-out", Recipe("w8a8", "round", transform="rotate"))
