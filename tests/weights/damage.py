"""Quantised modules that are damaged in one place, for every reader to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.weights.make import write_shard
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import codec_of
from twofold.weights.quantised import QuantisedCheckpoint

Tensors = dict[str, np.ndarray[Any, Any]]


def open_tensors(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> QuantisedCheckpoint:
    """A checkpoint of these tensors under this quantization_config."""
    write_shard(folder / "model.safetensors", tensors)
    codec = codec_of({"quantization_config": config})
    assert codec is not None
    return QuantisedCheckpoint(Checkpoint.open(folder), codec)


def read_all(store: QuantisedCheckpoint) -> None:
    """Decode every quantised weight, every expert of it."""
    for name in store.parts:
        shape = store.shape(name)
        if len(shape) == 2:
            store.rows(name, 0, shape[0])
        else:
            for expert in range(shape[0]):
                store.rows(name, 0, shape[2], expert)


def without(tensors: Tensors, name: str) -> Tensors:
    """All tensors but one."""
    return {key: value for key, value in tensors.items() if key != name}


def with_value(tensors: Tensors, name: str, value: float) -> Tensors:
    """One element of a tensor set to a value."""
    changed = np.array(tensors[name])
    changed.reshape(-1)[-1:] = np.array([value], np.float64).astype(changed.dtype)
    return {**tensors, name: changed}
