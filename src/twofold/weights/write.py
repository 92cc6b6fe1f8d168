"""Checkpoints out: one safetensors file at a time, each whole or not there, and the index over them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from twofold.ops.packed import AnyArray
from twofold.weights.checkpoint import INDEX_NAME
from twofold.weights.safetensors import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 64


def write_safetensors(path: Path, tensors: Mapping[str, AnyArray]) -> None:
    """Write tensors in their order, under a temporary name until the file is whole and on the disk."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def write_json(path: Path, value: object) -> None:
    """Readable JSON, whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.rename(path)


def write_index(folder: Path, homes: Mapping[str, str], size_bytes: int) -> None:
    """model.safetensors.index.json: which file holds each tensor."""
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": size_bytes}, "weight_map": dict(homes)})
