"""Transforms folded into a checkpoint while it is quantised: what changes in its config, its layers and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from twofold.errors import QuantisationError
from twofold.layerwise import Activations, LayerRunner
from twofold.loading import Model
from twofold.models.registry import read_architecture
from twofold.ops.packed import BF16, AnyArray, Packed
from twofold.ops.types import Target
from twofold.quant.rotate import Rotations, make_rotations, rotate_projector, rotate_unit, values_of
from twofold.quant.smooth import Extremes, smooth_unit
from twofold.quant.units import Unit
from twofold.weights.checkpoint import Checkpoint, read_json

PROJECTOR = "multi_modal_projector."
"""Part of the names of the tensors that turn an image into rows that replace embeddings."""


def check_rotatable(model: Model, store: Checkpoint) -> None:
    """Raise QuantisationError when what turns images into rows of the residual stream cannot be rotated with it."""
    for name in store.names:
        shape = store.shape(name)
        if PROJECTOR in name and (len(shape) != 2 or shape[0] != model.architecture.hidden):
            raise QuantisationError(
                f"{name} has shape {list(shape)}; a matrix with {model.architecture.hidden} rows was expected, whose "
                "outputs can be rotated. Choose --transform none or smooth for this model."
            )


def untied(model: Model, store: Checkpoint) -> Model:
    """The same network with a head of its own, read from the embedding.

    The last norm's weight becomes part of the head, which the embedding is then no longer equal to.
    """
    if not model.has_tied_head:
        return model
    raw = untie(read_json(model.folder, "config.json"))
    embedding = next(target for target in model.targets if target.role == "embedding")
    architecture = read_architecture(raw)
    targets = [
        replace(target, sources=embedding.sources) if target.role == "head" else target
        for target in architecture.targets(store.names)
    ]
    return replace(model, architecture=architecture, targets=tuple(targets))


def untie(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json whose head is not the embedding."""
    result: dict[str, Any] = json.loads(json.dumps(config)) | {"tie_word_embeddings": False}
    if isinstance(result.get("text_config"), dict):
        result["text_config"]["tie_word_embeddings"] = False
    return result


def fold_unit(
    transform: str,
    model: Model,
    unit: Unit,
    weights: Mapping[str, Packed],
    runner: LayerRunner | None,
    before: Activations | None,
) -> None:
    """Fold the transform into the weights of a unit (Dense), in place; smoothing runs the unit over the texts first."""
    if transform == "rotate":
        rotate_unit(unit, weights, rotations_of(model))
    elif transform == "smooth" and before is not None:
        assert runner is not None, "smoothing has texts to look at"
        extremes = Extremes(runner.ops, weights)
        runner.with_ops(extremes).run(unit, weights, before)
        smooth_unit(unit, weights, extremes.of, model.architecture.cache_shape.kv_heads)


def rotations_of(model: Model) -> Rotations:
    """The rotations of a model."""
    shape = model.architecture.cache_shape
    return make_rotations(model.architecture.hidden, shape.head_size, shape.kv_heads)


def folded_tensors(store: Checkpoint, target: Target, output: Target, weight: Packed) -> dict[str, AnyArray]:
    """The tensors of a weight that is transformed and not quantised; `output` names them.

    bfloat16 stays bfloat16 (rounded where the transform is a rotation), anything else and every router is float32.
    """
    dtypes = {store.dtype(source.name) for parts in target.sources for source in parts}
    dtype = BF16 if dtypes == {"BF16"} and target.role != "router" else np.dtype(np.float32)
    values = values_of(weight)
    assert values.ndim < 3, "experts are quantised in every scheme"
    if values.ndim == 1:
        return {output.sources[0][0].name: values.astype(dtype)}
    tensors: dict[str, AnyArray] = {}
    first = 0
    for source in output.sources[0]:
        tensors[source.name] = values[first : first + source.rows].astype(dtype)
        first += source.rows
    return tensors


def other_tensors(transform: str, model: Model, store: Checkpoint, names: list[str]) -> dict[str, AnyArray]:
    """What is not part of the text network: as it is, but in the new basis where it writes to the residual stream."""
    tensors: dict[str, AnyArray] = {name: store.tensor(name) for name in names}
    if transform != "rotate":
        return tensors
    for name in names:
        if PROJECTOR in name:
            tensors[name] = rotate_projector(tensors[name], rotations_of(model)).astype(tensors[name].dtype)
    return tensors
