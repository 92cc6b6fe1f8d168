"""Quantise a checkpoint layer by layer into a folder that loads as it is.

One decoder layer is in memory at a time, in the checkpoint's precision and quantised. Each finished unit is a file, and
what calibration needs to go on is written before it: a run that is killed goes on where it stopped, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.choosing import Choice, check_budget, decide, split_texts
from twofold.errors import QuantisationError, SettingsError
from twofold.folding import check_rotatable, fold_unit, untied
from twofold.layerwise import Activations, LayerRunner, build_calibration_ops
from twofold.loading import Model, open_model
from twofold.ops.interface import Ops
from twofold.ops.packed import Packed
from twofold.ops.types import Target
from twofold.quant.budget import Budget, parse_budget
from twofold.quant.calibrate import Recorder
from twofold.quant.quantise import Kind
from twofold.quant.recipe import Recipe
from twofold.quant.schemes import MIXED, quantised_formats
from twofold.quant.units import InputsOf, Unit, cut, exact_formats, kind_of, pack_unit, quantise_unit
from twofold.quantised_folder import PLAN, finish, output_tensors
from twofold.text.rows import encode_rows, read_rows
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.codecs import NATIVE_VERSION
from twofold.weights.gguf_checkpoint import GgufCheckpoint
from twofold.weights.load import load
from twofold.weights.write import write_json, write_safetensors

WINDOW = 512
"""Tokens of plain calibration text that are run in one stretch."""
STATE = "activations-{:05}.npy"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: what is quantised, how, on which calibration texts, and where it is written until it is whole.

    Of the scheme mixed: the budget, the texts that damage is measured on, and what was chosen.
    """

    model: Model
    store: Checkpoint
    recipe: Recipe
    kinds: Mapping[str, Kind]
    units: Sequence[Unit]
    output_targets: dict[str, Target]
    texts: Sequence[Sequence[int]]
    folder: Path
    budget: Budget
    sample: Sequence[Sequence[int]] = ()
    choice: Choice | None = None

    def shard(self, index: int) -> Path:
        """File of a unit; the last one holds what is copied as it is."""
        return self.folder / f"model-{index + 1:05}-of-{len(self.units) + bool(self.others):05}.safetensors"

    @property
    def others(self) -> list[str]:
        """Tensors that are not part of the network, copied as they are."""
        targets = [*self.model.targets, *self.output_targets.values()]
        used = {source.name for target in targets for parts in target.sources for source in parts}
        return [name for name in self.store.names if name not in used]

    def record(self, index: int) -> Path:
        """What was done to a unit."""
        return self.folder / f"unit-{index:05}.report"


def quantise_model(path_or_id: str | Path, output: Path, recipe: Recipe, progress: Progress | None = None) -> Path:
    """Quantise a checkpoint into the folder `output`; a killed run goes on when it is started again in the same way.

    `progress(unit, done, total)` hears of every unit. Raises SettingsError when `output` exists or the budget cannot be
    met, QuantisationError when a half-written folder is of another run or the calibration inputs cannot be used, and
    what opening a model raises.
    """
    job = decide(prepare(path_or_id, output, recipe), build_calibration_ops(), progress)
    run_job(job, progress)
    finish(job, output, progress)
    return output


def run_job(job: Job, progress: Progress | None) -> None:
    """Quantise every unit that is not done yet."""
    ops = build_calibration_ops()
    runner = LayerRunner(job.model.architecture, ops, job.texts) if job.recipe.runs_layers else None
    first, activations = resume(job, runner)
    for index in range(first, len(job.units)):
        if progress:
            progress(job.units[index].name, index, len(job.units))
        activations = run_unit(job, index, runner, activations, ops)


def prepare(path_or_id: str | Path, output: Path, recipe: Recipe) -> Job:
    """Open the model, decide every format, encode the calibration texts, and claim the folder."""
    if output.exists():
        raise SettingsError(f"{output} exists; name a folder that does not, or remove it")
    model = open_model(path_or_id)
    if isinstance(model.store, GgufCheckpoint):
        raise SettingsError(
            f"{path_or_id} is a GGUF file; quantise the original checkpoint, or convert the file with "
            "`twofold pack FILE -o FOLDER --dtype w4a8`"
        )
    if not isinstance(model.store, Checkpoint):
        raise SettingsError(f"{path_or_id} is packed or quantised already; quantise the original checkpoint")
    store = model.store
    if recipe.transform == "rotate":
        check_rotatable(model, store)
        model = untied(model, store)
    fused = [name for name in store.names if name.endswith((".experts.gate_up_proj", ".experts.down_proj"))]
    unfused = model.architecture.targets([name for name in store.names if name not in fused])
    job = Job(
        model=model,
        store=store,
        recipe=recipe,
        kinds=quantised_formats(recipe.scheme, has_head=not model.has_tied_head),
        units=cut(model.targets),
        output_targets={target.name: target for target in unfused},
        texts=calibration_texts(model, recipe) if recipe.needs_text else (),
        folder=output.with_name(output.name + ".partial"),
        budget=parse_budget(recipe.budget),
    )
    check_budget(job)
    job = split_texts(job)
    claim(job)
    return job


def calibration_texts(model: Model, recipe: Recipe) -> list[list[int]]:
    """Token ids of every stretch of the calibration rows."""
    path = recipe.calibration
    if path is None:
        other = "another scheme with --method round" if recipe.scheme == MIXED else "--method round (without smoothing)"
        raise SettingsError(f"calibration needs text: name a file with --calibration, or choose {other}")
    tokenizer, template = model.files.tokenizer(), model.files.template(model.architecture.family)
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
        "scheme": job.recipe.scheme,
        "method": job.recipe.method,
        "transform": job.recipe.transform,
        "formats": {target.name: kind_of(job.kinds, target) for target in job.model.targets},
        "checkpoint": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
        "texts": hashlib.sha256(json.dumps([list(ids) for ids in (*job.texts, *job.sample)]).encode()).hexdigest(),
    }
    path = job.folder / PLAN
    if path.exists() and json.loads(path.read_text()) != plan:
        raise QuantisationError(
            f"{job.folder} is the half-written folder of a run with another checkpoint, scheme, calibration or "
            "transform. Start that run again to finish it, or remove the folder."
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


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
    formats = exact_formats(job.store, unit, changes=job.recipe.transform == "rotate")
    weights = load(job.store, unit.targets, formats, ops.packer)
    fold_unit(job.recipe.transform, job.model, unit, weights, runner, before)
    watched = runner if job.recipe.method == "gptq" else None
    matrices = list(quantise_unit(unit, job.kinds, weights, observe(unit, weights, watched, before)))
    after = None
    if runner is not None and index + 1 < len(job.units):
        weights = pack_unit(unit, weights, matrices, ops.packer)  # the exact ones are let go before the layer runs
        after = runner.run(unit, weights, before)
        save_state(job.folder / STATE.format(index), after)
    write_json(job.record(index), [item.record.as_dict() for item in matrices])
    write_safetensors(job.shard(index), output_tensors(job, unit, weights, matrices))
    (job.folder / STATE.format(index - 1)).unlink(missing_ok=True)
    return after


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
