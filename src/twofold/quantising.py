"""Quantise a checkpoint layer by layer into a folder that loads as it is.

One decoder layer is in memory at a time, in the checkpoint's precision and quantised. Each finished unit is a file, and
what calibration needs to go on is written before it: a run that is killed goes on where it stopped, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.errors import QuantisationError, SettingsError
from twofold.layerwise import Activations, LayerRunner
from twofold.loading import Model, open_model
from twofold.ops.codes import Codes
from twofold.ops.formats import Formats
from twofold.ops.interface import Ops
from twofold.ops.packed import AnyArray, Format, Packed
from twofold.ops.types import Target
from twofold.quant.calibrate import Recorder
from twofold.quant.grids import group_size
from twofold.quant.quantise import Kind
from twofold.quant.report import write_report
from twofold.quant.schemes import quantised_formats
from twofold.quant.units import InputsOf, Matrix, Unit, cut, kind_of, pack_unit, quantise_unit
from twofold.text.chat import ChatTemplate
from twofold.text.rows import encode_rows, read_rows
from twofold.text.tokenizer import Tokenizer
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import NATIVE_METHOD, NATIVE_VERSION
from twofold.weights.compressed_rows import compressed_config
from twofold.weights.load import load
from twofold.weights.stored_codes import tensors_of
from twofold.weights.write import write_index, write_json, write_safetensors

METHODS = ("gptq", "round")
WINDOW = 512
"""Tokens of plain calibration text that are run in one stretch."""
SIDE_FILES = ("*.json", "*.jinja", "tokenizer.model")
PLAN, STATE = "plan.json", "activations-{:05}.npy"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: what is quantised, how, on which calibration texts, and where it is written until it is whole."""

    model: Model
    store: Checkpoint
    scheme: str
    method: str
    kinds: Mapping[str, Kind]
    units: Sequence[Unit]
    output_targets: dict[str, Target]
    texts: Sequence[Sequence[int]]
    folder: Path

    def shard(self, index: int) -> Path:
        """File of a unit; the last one holds what is copied as it is."""
        return self.folder / f"model-{index + 1:05}-of-{len(self.units) + bool(self.others):05}.safetensors"

    @property
    def others(self) -> list[str]:
        """Tensors that are not part of the network, copied as they are."""
        used = {source.name for target in self.model.targets for parts in target.sources for source in parts}
        return [name for name in self.store.names if name not in used]

    def record(self, index: int) -> Path:
        """What was done to a unit."""
        return self.folder / f"unit-{index:05}.report"


def quantise_model(
    path_or_id: str | Path,
    output: Path,
    scheme: str,
    method: str = "gptq",
    calibration: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Quantise a checkpoint into the folder `output`; a killed run goes on when it is started again in the same way.

    `calibration` is a text file or JSON lines (text.rows); method "round" needs none. `progress(unit, done, total)`
    hears of every unit. Raises SettingsError when `output` exists, QuantisationError when a half-written folder is of
    another run or the calibration inputs cannot be used, and what opening a model raises.
    """
    job = prepare(path_or_id, output, scheme, method, calibration)
    run_job(job, progress)
    finish(job, output)
    return output


def run_job(job: Job, progress: Progress | None) -> None:
    """Quantise every unit that is not done yet."""
    ops = build_calibration_ops()
    runner = LayerRunner(job.model.architecture, ops, job.texts) if job.method == "gptq" else None
    first, activations = resume(job, runner)
    for index in range(first, len(job.units)):
        if progress:
            progress(job.units[index].name, index, len(job.units))
        activations = run_unit(job, index, runner, activations, ops)


def prepare(path_or_id: str | Path, output: Path, scheme: str, method: str, calibration: Path | None) -> Job:
    """Open the model, decide every format, encode the calibration texts, and claim the folder."""
    if output.exists():
        raise SettingsError(f"{output} exists; name a folder that does not, or remove it")
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    model = open_model(path_or_id)
    if not isinstance(model.store, Checkpoint):
        raise SettingsError(f"{path_or_id} is packed or quantised already; quantise the original checkpoint")
    fused = [name for name in model.store.names if name.endswith((".experts.gate_up_proj", ".experts.down_proj"))]
    unfused = model.architecture.targets([name for name in model.store.names if name not in fused])
    job = Job(
        model=model,
        store=model.store,
        scheme=scheme,
        method=method,
        kinds=quantised_formats(scheme, has_head=not model.has_tied_head),
        units=cut(model.targets),
        output_targets={target.name: target for target in unfused},
        texts=calibration_texts(model, calibration) if method == "gptq" else (),
        folder=output.with_name(output.name + ".partial"),
    )
    claim(job)
    return job


def calibration_texts(model: Model, path: Path | None) -> list[list[int]]:
    """Token ids of every stretch of the calibration rows."""
    if path is None:
        raise SettingsError("calibration needs text: name a file with --calibration, or choose --method round")
    tokenizer = Tokenizer.load(model.folder)
    template = ChatTemplate.load(model.folder, model.architecture.family)
    window = min(WINDOW, model.architecture.context)
    texts = [ids[: model.architecture.context] for ids, _ in encode_rows(tokenizer, template, read_rows(path), window)]
    if not texts:
        raise SettingsError(f"{path} has no text to calibrate on")
    return texts


def claim(job: Job) -> None:
    """Make the folder, or make sure that what is in it belongs to this very run."""
    files = sorted({job.store.file(name).path for name in job.store.names})
    plan = {
        "version": NATIVE_VERSION,
        "scheme": job.scheme,
        "method": job.method,
        "formats": {target.name: kind_of(job.kinds, target) for target in job.model.targets},
        "checkpoint": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "texts": hashlib.sha256(json.dumps([list(ids) for ids in job.texts]).encode()).hexdigest(),
    }
    path = job.folder / PLAN
    if path.exists() and json.loads(path.read_text()) != plan:
        raise QuantisationError(
            f"{job.folder} is the half-written folder of a run with another checkpoint, scheme or calibration. "
            "Start that run again to finish it, or remove the folder."
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


def build_calibration_ops() -> Ops:
    """The native backend, with keys and values in float32."""
    from twofold.backends.cpu.ops import CpuOps

    return CpuOps(kv_dtype="f32")


def resume(job: Job, runner: LayerRunner | None) -> tuple[int, Activations | None]:
    """The first unit that is not done, and the activations in front of it."""
    done = 0
    while done < len(job.units) and job.shard(done).exists() and job.record(done).exists():
        done += 1
    state = job.folder / STATE.format(done - 1)
    if runner is None or done == 0 or done == len(job.units):
        return done, None
    return done, runner.split(np.load(state))


def run_unit(
    job: Job, index: int, runner: LayerRunner | None, before: Activations | None, ops: Ops
) -> Activations | None:
    """Quantise one unit, write it, and give the activations behind it."""
    unit = job.units[index]
    weights = load(job.store, unit.targets, exact_formats(job, unit), ops.packer)
    matrices = list(quantise_unit(unit, job.kinds, weights, observe(unit, weights, runner, before)))
    after = None
    if runner is not None and index + 1 < len(job.units):
        weights = pack_unit(unit, weights, matrices, ops.packer)  # the exact ones are let go before the layer runs
        after = runner.run(unit, weights, before)
        save_state(job.folder / STATE.format(index), after)
    write_json(job.record(index), [item.record.as_dict() for item in matrices])
    write_safetensors(job.shard(index), output_tensors(job, unit, matrices))
    (job.folder / STATE.format(index - 1)).unlink(missing_ok=True)
    return after


def exact_formats(job: Job, unit: Unit) -> Formats:
    """Formats that hold the checkpoint's own values: bfloat16 where they are that, else float32."""
    result: dict[str, Format] = {}
    for target in unit.targets:
        dtypes = {job.store.dtype(source.name) for parts in target.sources for source in parts}
        is_small = target.role in ("norm", "router")
        result[target.name] = "bf16" if dtypes == {"BF16"} and not is_small else "f32"
    return result


def observe(
    unit: Unit, weights: dict[str, Packed], runner: LayerRunner | None, before: Activations | None
) -> InputsOf | None:
    """Run a layer or the head as it is over the calibration texts; None for what has no inputs to look at."""
    if runner is None or before is None:
        return None
    recorder = Recorder(runner.ops, weights)
    runner.with_ops(recorder).run(unit, weights, before)
    return InputsOf(recorder, weights)


def save_state(path: Path, activations: Activations) -> None:
    """Write the activations of all texts, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, np.concatenate(activations))
    temporary.rename(path)


def output_tensors(job: Job, unit: Unit, matrices: Sequence[Matrix]) -> dict[str, AnyArray]:
    """The tensors of a unit: codes of every module, and what stays as it is."""
    tensors: dict[str, AnyArray] = {}
    coded = {item.target.name for item in matrices}
    for target in unit.targets:
        if target.name not in coded:
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
    if job.scheme == "w4a8" or any(target.role == "embedding" for target in matrices):
        return {"quant_method": NATIVE_METHOD, "version": NATIVE_VERSION, "scheme": job.scheme}
    kept = [target for target in job.model.targets if target.role in ("router", "head") and target not in matrices]
    names = [source.name.removesuffix(".weight") for target in kept for parts in target.sources for source in parts]
    others = {name.split(".")[0] for name in job.others}
    sizes = {group_size(target.shape[-1]) for target in matrices} if job.scheme == "w4a16" else {0}
    if len(sizes) > 1:
        raise QuantisationError(
            f"w4a16 needs one group size for all weights, not {sorted(sizes)}; choose another scheme"
        )
    return compressed_config(job.scheme, sizes.pop(), [*names, *(f"re:{name}.*" for name in sorted(others))])


def finish(job: Job, output: Path) -> None:
    """Copy what is not part of the network, write index, config and report, and give the folder its name."""
    if job.others:
        write_safetensors(job.shard(len(job.units)), {name: job.store.tensor(name) for name in job.others})
    for pattern in SIDE_FILES:
        for path in job.model.folder.glob(pattern):
            if not path.name.endswith(".index.json"):
                shutil.copyfile(path, job.folder / path.name)
    config: dict[str, Any] = json.loads((job.model.folder / "config.json").read_text())
    config["quantization_config"] = quantization_config(job)
    write_json(job.folder / "config.json", config)
    written = Checkpoint.open_files(sorted(job.folder.glob("model-*.safetensors")))
    write_index(job.folder, {name: written.file(name).path.name for name in written.names}, written.size_bytes)
    records = [row for index in range(len(job.units)) for row in json.loads(job.record(index).read_text())]
    write_report(job.folder, job.scheme, job.method, [len(ids) for ids in job.texts], records, written.size_bytes)
    for pattern in ("unit-*.report", "activations-*.npy", "*.tmp", PLAN):
        for path in job.folder.glob(pattern):
            path.unlink()
    job.folder.rename(output)
