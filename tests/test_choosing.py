"""The scheme mixed: bits where they save most, within a budget, resumable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twofold import LLM
from twofold.bench.evaluate import evaluate
from twofold.choosing import CHOICE, DAMAGES, check_budget, decide, split_texts
from twofold.demo import calibration_file, heldout_file
from twofold.errors import QuantisationError, SettingsError
from twofold.layerwise import build_calibration_ops
from twofold.loading import open_model, pack_model
from twofold.quant.budget import parse_budget
from twofold.quant.recipe import Recipe
from twofold.quant.report import PAGE, REPORT
from twofold.quantised_folder import finish
from twofold.quantising import Job, Progress, claim, prepare, quantise_model, run_job
from twofold.text.rows import read_rows

TEXTS = [np.random.default_rng(seed).integers(3, 90, 30).tolist() for seed in range(16)]
ToyFolder = Callable[[str], tuple[Path, Any]]


def mixed_job(source: Path, output: Path, budget: str | None = None, method: str = "gptq") -> Job:
    """A job on random texts; toys have no tokenizer, so what `prepare` does with texts is done here."""
    plain = prepare(source, output.with_name("unused"), Recipe("w4a8", "round"))
    job = dataclasses.replace(
        plain,
        recipe=Recipe("mixed", method),
        texts=TEXTS,
        folder=output.with_name(output.name + ".partial"),
        budget=parse_budget(budget),
    )
    check_budget(job)
    job = split_texts(job)
    claim(job)
    return job


def run(job: Job, output: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Do all of it; the report."""
    job = decide(job, build_calibration_ops(), progress)
    run_job(job, progress)
    finish(job, output, progress)
    report: dict[str, Any] = json.loads((output / REPORT).read_text())
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("name", "budget"),
    [("interleaved-qk-norm", "8bit"), ("odd-sizes", "10bit"), ("guard", "7.5bit"), ("llama3-tied", "8bit")],
)
@pytest.mark.parametrize("method", ["gptq", "round"])
def test_the_folder_holds_what_was_chosen(
    name: str, budget: str, method: str, toy_folder: ToyFolder, tmp_path: Path
) -> None:
    job = mixed_job(toy_folder(name)[0], tmp_path / "out", budget, method)
    report = run(job, tmp_path / "out")
    choice, model = report["choice"], open_model(tmp_path / "out")
    assert model.quantised_dtype == "mixed"
    assert 0.9 * float(budget[:-3]) < choice["bits_per_weight"] <= float(budget[:-3])
    assert choice["measured_kl"] > 0
    assert choice["tokens"] == sum(map(len, job.sample))
    chosen = {row["name"]: row["format"] for row in choice["groups"]}
    assert len(set(chosen.values())) > 1
    formats = model.formats("mixed")
    for target in model.targets:
        layer = target.name.split(".")[1] if target.name.startswith("layers.") else None
        part = {"shared": "shared expert", "expert": "experts", "dense": "feed-forward"}.get(target.role, target.role)
        if part in ("norm", "router"):
            assert formats[target.name] == "f32"
        else:
            assert formats[target.name] == chosen[part if layer is None else f"layer {layer} {part}"]
    read = model.footprint("mixed").read_bytes_per_token
    assert read == choice["read_bytes_per_token"]
    page = (tmp_path / "out" / PAGE).read_text()
    assert all(f"<td>{name}</td>" in page for name in chosen)


def test_files_take_no_more_than_a_budget_of_bytes(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("interleaved-qk-norm")
    sizes = []
    for limit in (120_000, 150_000, 200_000):
        job = mixed_job(source, tmp_path / str(limit), f"{limit / 1000}kB", "round")
        sizes.append(run(job, tmp_path / str(limit))["size_bytes"])
        assert 0.85 * limit < sizes[-1] <= limit
        written = sum(path.stat().st_size for path in (tmp_path / str(limit)).glob("*.safetensors"))
        assert written > sizes[-1]  # headers come on top


def test_a_smaller_divergence_asks_for_more_bytes(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("llama3")
    found = []
    for limit in (1e-3, 1e-2, 1.0, 100.0):
        choice = decide(mixed_job(source, tmp_path / f"{limit}", f"kl={limit}"), build_calibration_ops(), None).choice
        assert choice is not None
        assert choice.predicted_kl <= limit
        found.append(sum(choice.memory_bytes.values()))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    assert set(choice.formats.values()) == {"int4"}


def test_a_run_killed_at_any_point_goes_on_with_the_same_bits(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("interleaved-qk-norm")
    run(mixed_job(source, tmp_path / "whole"), tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(unit: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    for stop in (3, 6, 9, 2, 6):  # twice while damage is measured, twice while quantising, once while judging
        left = stop
        with pytest.raises(Killed):
            run(mixed_job(source, tmp_path / "again"), tmp_path / "again", kill)
        assert not (tmp_path / "again").exists()
    run(mixed_job(source, tmp_path / "again"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert not (tmp_path / "again.partial").exists()


def test_damage_is_measured_once_for_several_budgets(toy_folder: ToyFolder, tmp_path: Path) -> None:
    """Until a unit is written: then another budget is another run."""
    source, _ = toy_folder("llama3")
    first = decide(mixed_job(source, tmp_path / "out", "6bit"), build_calibration_ops(), None)

    def refuse(*event: object) -> None:
        raise AssertionError("nothing is measured again")

    second = decide(mixed_job(source, tmp_path / "out", "9bit"), build_calibration_ops(), refuse)
    assert first.choice is not None
    assert second.choice is not None
    assert first.choice.formats != second.choice.formats
    assert first.choice.damages == second.choice.damages
    run_job(second, None)
    with pytest.raises(QuantisationError, match="another budget"):
        decide(mixed_job(source, tmp_path / "out", "6bit"), build_calibration_ops(), refuse)
    finish(second, tmp_path / "out")
    assert not {DAMAGES, CHOICE} & {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("4bit", r"cannot be met: the least is 5\.[0-9]+bit"),
        ("16bit", r"leaves nothing to do: the matrices as they are take 16(\.0)?bit"),
        ("10kB", r"cannot be met: the least is 0\.[0-9]+MB with all that is copied"),
        ("3GB", "leaves nothing to do"),
        ("four bits", r"4\.3bit"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_with_what_can(
    budget: str, words: str, toy_folder: ToyFolder, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words):
        mixed_job(toy_folder("scout")[0], tmp_path / "out", budget)
    assert not (tmp_path / "out.partial").exists()


def test_a_divergence_below_everything_is_refused(toy_folder: ToyFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="rounding any of them costs"):
        decide(mixed_job(toy_folder("llama3")[0], tmp_path / "out", "kl=1e-12"), build_calibration_ops(), None)


def test_other_schemes_take_no_budget_and_mixed_needs_text(toy_folder: ToyFolder, tmp_path: Path) -> None:
    source, _ = toy_folder("llama3")
    with pytest.raises(SettingsError, match="--budget is for --scheme mixed"):
        prepare(source, tmp_path / "out", Recipe("w4a8", "round", budget="5bit"))
    with pytest.raises(SettingsError, match="another scheme"):
        prepare(source, tmp_path / "out", Recipe("mixed", "round"))


def test_texts_to_measure_on_are_kept_from_gptq(toy_folder: ToyFolder, tmp_path: Path) -> None:
    job = mixed_job(toy_folder("llama3")[0], tmp_path / "out")
    assert len(job.sample) == 2
    assert len(job.texts) == len(TEXTS) - 2
    assert not [ids for ids in job.sample if ids in job.texts]
    few = split_texts(dataclasses.replace(job, texts=TEXTS[:3]))
    assert list(few.sample) == TEXTS[:1]
    assert list(few.texts) == TEXTS[:3]


def test_mixed_beats_uniform_at_equal_bytes(tmp_path: Path) -> None:
    """On text neither of them saw, the demo model rounded to nearest codes; with GPTQ in benchmarks.quality."""
    lines = calibration_file().read_text().splitlines()
    (tmp_path / "text.jsonl").write_text("\n".join(lines[::40]))
    for scheme in ("w4a8", "mixed"):
        quantise_model("demo", tmp_path / scheme, Recipe(scheme, "round", tmp_path / "text.jsonl"))
    pack_model(tmp_path / "mixed", tmp_path / "packed", None)
    rows, reference = read_rows(heldout_file())[::20], LLM("demo")
    found = {name: evaluate(LLM(tmp_path / name), rows, reference) for name in ("w4a8", "mixed", "packed")}
    sizes = {name: LLM(tmp_path / name).loaded.model.footprint(name).total_bytes for name in ("w4a8", "mixed")}
    assert sizes["mixed"] <= sizes["w4a8"]
    assert found["packed"] == found["mixed"]
    assert found["mixed"].dtype == "mixed"
    assert found["mixed"].kl_mean is not None
    assert found["w4a8"].kl_mean is not None
    assert found["mixed"].kl_mean < 0.6 * found["w4a8"].kl_mean  # 0.012 and 0.037 on the whole of it
