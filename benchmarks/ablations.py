"""What transforms are worth: the demo model, and the same network with planted outlier channels, quantised every way.

python -m benchmarks.ablations                       both networks, every scheme, method and transform
python -m benchmarks.ablations --network outliers --method round
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import measure
from benchmarks.results import write_result
from twofold.api import LLM
from twofold.demo import calibration_file, model_folder
from twofold.ops.packed import BF16, AnyArray
from twofold.quant.recipe import METHODS, TRANSFORMS, Recipe
from twofold.quantising import quantise_model
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.write import write_safetensors

SCHEMES = ("w4a8", "w8a8")
NETWORKS = ("demo", "outliers")
OUTLIERS = 4
FACTOR = 256.0
"""A power of two: bfloat16 weights are scaled without rounding, so that the planted network computes the same."""
READERS = {
    "input_layernorm": ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
    "post_attention_layernorm": (
        *("router.weight", "shared_expert.gate_proj.weight", "shared_expert.up_proj.weight", "experts.gate_up_proj"),
    ),
}


def plant_outliers(folder: Path) -> Path:
    """Write the demo model with a few channels of every normed stream made large, and what reads them small.

    The network computes the same; its activations look like those of large models, where a few channels are a hundred
    times as large as the others.
    """
    shutil.copytree(model_folder(), folder)
    checkpoint = Checkpoint.open(folder)
    tensors = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names}
    random = np.random.default_rng(7)
    for name in list(tensors):
        parts = name.split(".")
        if parts[-2] in READERS:
            channels = random.choice(len(tensors[name]), OUTLIERS, replace=False)
            scale(tensors, name, channels, FACTOR)
            prefix = name.removesuffix(f"{parts[-2]}.weight")
            for reader in tensors:
                if reader.startswith(prefix) and reader.endswith(READERS[parts[-2]]):
                    scale(tensors, reader, channels, 1 / FACTOR)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def scale(tensors: dict[str, AnyArray], name: str, channels: AnyArray, factor: float) -> None:
    """Scale input channels of a tensor: entries of a norm, columns of a matrix, rows of fused experts [E, in, out]."""
    array = tensors[name].astype(np.float32)
    index = (slice(None), channels) if array.ndim > 1 else (channels,)
    array[index] *= np.float32(factor)
    assert (array.astype(BF16).astype(np.float32) == array).all(), f"{name} is not exact in bfloat16"
    tensors[name] = array.astype(BF16)


def quantised(model: str | Path, settings: tuple[str, str, str], reference: LLM) -> dict[str, Any]:
    """Quantise by (scheme, method, transform), then measure."""
    scheme, method, transform = settings
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = quantise_model(
            model, Path(folder) / "out", Recipe(scheme, method, calibration_file(), transform=transform)
        )
        seconds = round(time.perf_counter() - start, 1)
        quality = measure(output, reference)
    return {"scheme": scheme, "method": method, "transform": transform, "seconds": seconds, **quality}


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--scheme", nargs="*", default=list(SCHEMES), choices=SCHEMES)
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--transform", nargs="*", default=list(TRANSFORMS), choices=TRANSFORMS)
    arguments = parser.parse_args()
    reference = LLM("demo", dtype="bf16")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        planted = plant_outliers(Path(folder) / "outliers")
        print({"network": "outliers", **measure(planted, reference, dtype="bf16")}, flush=True)
        ways = itertools.product(arguments.network, arguments.method, arguments.scheme, arguments.transform)
        for network, method, scheme, transform in ways:
            model = planted if network == "outliers" else "demo"
            figures.append({"network": network, **quantised(model, (scheme, method, transform), reference)})
            print(figures[-1], flush=True)
    print(write_result("ablations", " ".join(["python -m benchmarks.ablations", *sys.argv[1:]]), figures))


if __name__ == "__main__":
    main()
