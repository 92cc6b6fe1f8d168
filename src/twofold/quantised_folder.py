"""The folder `twofold quantize` writes: tensors of every unit, what config.json says of them, and the last steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.choosing import CHOICE, DAMAGES, report_choice
from twofold.errors import QuantisationError
from twofold.folding import folded_tensors, other_tensors, untie
from twofold.layerwise import build_calibration_ops
from twofold.ops.codes import Codes
from twofold.ops.packed import AnyArray, Packed
from twofold.quant.grids import group_size
from twofold.quant.report import write_report
from twofold.quant.schemes import MIXED
from twofold.quant.units import Matrix, Unit, kind_of
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import NATIVE_METHOD, NATIVE_VERSION
from twofold.weights.compressed_rows import compressed_config
from twofold.weights.stored_codes import tensors_of
from twofold.weights.write import write_index, write_json, write_safetensors

if TYPE_CHECKING:
    from twofold.quantising import Job

PLAN = "plan.json"
Progress = Callable[[str, int, int], None]


def output_tensors(
    job: Job, unit: Unit, weights: Mapping[str, Packed], matrices: Sequence[Matrix]
) -> dict[str, AnyArray]:
    """The tensors of a unit: codes of every module, and what is not quantised."""
    tensors: dict[str, AnyArray] = {}
    coded = {item.target.name for item in matrices}
    for target in unit.targets:
        if target.name in coded:
            continue
        if job.recipe.transform != "none":
            tensors |= folded_tensors(job.store, target, job.output_targets[target.name], weights[target.name])
        else:
            names = dict.fromkeys(source.name for parts in target.sources for source in parts)
            tensors |= {name: job.store.tensor(name) for name in names}
    for item in matrices:
        first = 0
        for source in job.output_targets[item.target.name].sources[item.index]:
            module = source.name.removesuffix(".weight")
            rows = item.codes.slice(first, first + source.rows)
            tensors |= tensors_of(module, rows) if isinstance(rows, Codes) else rows.tensors(module)
            first += source.rows
    return tensors


def quantization_config(job: Job) -> dict[str, Any]:
    """What config.json says: compressed-tensors where its loaders understand every quantised module, else ours.

    They take linear layers only, so an embedding must have stayed as it is.
    """
    matrices = [target for target in job.model.targets if kind_of(job.kinds, target) not in ("f32", "bf16")]
    if job.recipe.scheme in ("w4a8", MIXED) or any(target.role == "embedding" for target in matrices):
        return {
            "quant_method": NATIVE_METHOD,
            "version": NATIVE_VERSION,
            "scheme": job.recipe.scheme,
            "transform": job.recipe.transform,
        }
    kept = [
        job.output_targets[target.name]
        for target in job.model.targets
        if target.role in ("router", "head") and target not in matrices
    ]
    names = [source.name.removesuffix(".weight") for target in kept for parts in target.sources for source in parts]
    others = {name.split(".")[0] for name in job.others}
    sizes = {group_size(target.shape[-1]) for target in matrices} if job.recipe.scheme == "w4a16" else {0}
    if len(sizes) > 1:
        raise QuantisationError(
            f"w4a16 needs one group size for all weights, not {sorted(sizes)}; choose another scheme"
        )
    return compressed_config(job.recipe.scheme, sizes.pop(), [*names, *(f"re:{name}.*" for name in sorted(others))])


def finish(job: Job, output: Path, progress: Progress | None = None) -> None:
    """Copy what is not part of the network, write index, config and report, and give the folder its name."""
    if job.others:
        others = other_tensors(job.recipe.transform, job.model, job.store, job.others)
        write_safetensors(job.shard(len(job.units)), others)
    job.model.files.copy_to(job.folder)
    config = untie(job.model.files.config) if job.recipe.transform == "rotate" else job.model.files.config
    write_json(job.folder / "config.json", {**config, "quantization_config": quantization_config(job)})
    written = Checkpoint.open_files(sorted(job.folder.glob("model-*.safetensors")))
    write_index(job.folder, {name: written.file(name).path.name for name in written.names}, written.size_bytes)
    records = [row for index in range(len(job.units)) for row in json.loads(job.record(index).read_text())]
    choice = report_choice(job, build_calibration_ops(), progress)
    lengths = [len(ids) for ids in job.texts] if job.recipe.runs_layers else []
    write_report(job.folder, job.recipe, lengths, records, written.size_bytes, choice)
    for pattern in ("unit-*.report", "activations-*.npy", "*.tmp", PLAN, DAMAGES, CHOICE):
        for path in job.folder.glob(pattern):
            path.unlink()
    job.folder.rename(output)
