"""The demo model as llama.cpp's plain Q4_0 would hold it, as a folder of float32 values: a measure to compare with.

Every matrix that `w4a8` rounds is rounded by the gguf package to Q4_0 (4.5 bits), the head to Q8_0 (llama.cpp gives it
Q6_K, which the package cannot make); routers and norms stay. llama.cpp also rounds activations, which is left out here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

from twofold.demo import model_folder
from twofold.ops.packed import AnyArray, Floats
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.write import write_safetensors

FUSED = (".experts.gate_up_proj", ".experts.down_proj")


def write_q4_0(folder: Path) -> Path:
    """Write the folder."""
    source = Checkpoint.open(model_folder())
    folder.mkdir()
    for path in model_folder().glob("*.json*"):
        if not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    for path in model_folder().glob("*.jinja"):
        shutil.copyfile(path, folder / path.name)
    write_safetensors(folder / "model.safetensors", {name: rounded(name, source.tensor(name)) for name in source.names})
    return folder


def rounded(name: str, values: AnyArray) -> Floats:
    """One tensor; stacks of experts lie [expert, in, out], and blocks run along the inputs."""
    wide = values.astype(np.float32)
    if values.ndim < 2 or name.endswith("router.weight"):
        return wide
    kind = GGMLQuantizationType.Q8_0 if name.startswith("lm_head") else GGMLQuantizationType.Q4_0
    is_fused = name.endswith(FUSED)
    rows = np.ascontiguousarray(wide.swapaxes(-1, -2) if is_fused else wide)
    found = quants.dequantize(quants.quantize(rows, kind), kind).reshape(rows.shape)
    return np.ascontiguousarray(found.swapaxes(-1, -2) if is_fused else found, np.float32)
