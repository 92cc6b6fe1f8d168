"""Damage measured layer by layer is the KL divergence that two whole networks give."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold.damage import judge_folder, measure_damages
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.errors import QuantisationError
from twofold.layerwise import build_calibration_ops
from twofold.loading import Model, open_model
from twofold.ops.interface import Ops
from twofold.ops.logprobs import divergence, log_softmax
from twofold.ops.packed import Packed
from twofold.quant.groups import group_units
from twofold.quant.recipe import Recipe
from twofold.quant.units import cut, exact_formats
from twofold.quantising import quantise_model
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.load import load
from twofold.weights.write import write_safetensors

TEXTS = [np.random.default_rng(seed).integers(3, 90, count).tolist() for seed, count in enumerate((20, 33, 2))]
ToyFolder = Callable[[str], tuple[Path, Any]]


def exact_weights(model: Model, ops: Ops) -> dict[str, Packed]:
    assert isinstance(model.store, Checkpoint)
    formats = {name: form for unit in cut(model.targets) for name, form in exact_formats(model.store, unit).items()}
    return load(model.store, model.targets, formats, ops.packer)


def whole_network(model: Model, ops: Ops, weights: Mapping[str, Packed]) -> list[np.ndarray]:
    """Log-probabilities of every text, from an engine that holds all weights."""
    shape = model.architecture.cache_shape
    limits = EngineLimits(context=64, step_tokens=64, max_sequences=1, vocabulary=model.architecture.vocabulary)
    engine = Engine(ops, model.architecture.bind(weights), shape, plan_layout(shape.chunk, 64, 64, 1), limits)
    return [log_softmax(np.concatenate(list(engine.score(ids)))) for ids in TEXTS]


def mean_divergence(exact: list[np.ndarray], other: list[np.ndarray]) -> float:
    return float(np.concatenate([divergence(p, q) for p, q in zip(exact, other, strict=True)]).mean(dtype=np.float64))


@pytest.mark.parametrize("name", ["interleaved-qk-norm", "llama3-tied"])
def test_every_group_by_itself_does_the_damage_it_does_in_a_whole_network(name: str, toy_folder: ToyFolder) -> None:
    model, ops = open_model(toy_folder(name)[0]), build_calibration_ops()
    groups = group_units(cut(model.targets))
    heard: list[tuple[str, int, int]] = []
    found = measure_damages(model, groups, TEXTS, ops, lambda *event: heard.append(event))
    assert [event[0] for event in heard][:2] == ["measuring embedding", "measuring layer 0"]
    assert isinstance(model.store, Checkpoint)
    weights = exact_weights(model, ops)
    exact = whole_network(model, ops, weights)
    for group in groups:
        assert list(found[group.name]) == ["bf16", *group.formats[:-1]]
        assert found[group.name]["bf16"] == 0
        for form in group.formats[:-1]:
            rounded = load(model.store, group.targets, {target.name: form for target in group.targets}, ops.packer)
            expected = mean_divergence(exact, whole_network(model, ops, {**weights, **rounded}))
            assert found[group.name][form] == pytest.approx(expected, rel=1e-5), (group.name, form)
            assert expected > 0


def test_a_network_without_finite_logits_is_refused(toy_folder: ToyFolder, tmp_path: Path) -> None:
    shutil.copytree(toy_folder("llama3")[0], tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    store = Checkpoint.open_files([path])
    tensors = {name: np.array(store.tensor(name)) for name in store.names}
    tensors["model.norm.weight"][:] = np.inf
    write_safetensors(path, tensors)
    model = open_model(tmp_path / "broken")
    with np.errstate(invalid="ignore"), pytest.raises(QuantisationError, match="the KL divergence is nan"):
        measure_damages(model, group_units(cut(model.targets)), TEXTS, build_calibration_ops())


@pytest.mark.parametrize("name", ["interleaved-qk-norm", "llama3-tied"])
def test_a_folder_is_judged_as_a_whole_network_would_be(name: str, toy_folder: ToyFolder, tmp_path: Path) -> None:
    source = toy_folder(name)[0]
    quantise_model(source, tmp_path / "out", Recipe("w4a8", "round"))
    model, result, ops = open_model(source), open_model(tmp_path / "out"), build_calibration_ops()
    weights = load(result.store, result.targets, result.formats("w4a8"), ops.packer)  # type: ignore[arg-type]
    exact = whole_network(model, ops, exact_weights(model, ops))
    expected = mean_divergence(exact, whole_network(result, ops, weights))
    assert judge_folder(model, tmp_path / "out", TEXTS, ops) == pytest.approx(expected, rel=1e-5)
