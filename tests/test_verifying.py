"""Verification of exports: what is right passes, what is not does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from twofold.cli.export import show
from twofold.errors import CheckpointError, SettingsError
from twofold.export.manifest import FILE_NAME, GRAPH_NAME, digest_of
from twofold.exporting import export_model
from twofold.quant.recipe import Recipe
from twofold.quantising import quantise_model
from twofold.verifying import Verdict, verify_export

PROGRAM = "from twofold.cli.main import main; main()"


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model("demo", tmp_path_factory.mktemp("verify") / "portable", "portable", "f32")


@pytest.fixture(scope="module")
def verdict(portable: Path) -> Verdict:
    return verify_export(portable, "demo")


def test_an_export_is_verified_with_counts_and_figures(verdict: Verdict) -> None:
    found = verdict
    assert found.passed
    assert len(found.checks) == 5
    assert found.chunks >= 1
    assert found.kl < 1e-6
    assert found.contents.operators["Attention"] == 4
    assert found.contents.opsets == {"ai.onnx": 23}


def test_rounded_weights_are_judged_as_they_were_rounded(tmp_path: Path) -> None:
    exact = verify_export(export_model("demo", tmp_path / "exact", "portable", "int4"), "demo")
    assert exact.passed
    assert exact.checks[0].found < 1e-4
    fast = verify_export(export_model("demo", tmp_path / "fast", "onnxruntime", "int4"), "demo")
    assert fast.passed
    assert fast.kl < 1.2 * exact.kl + 0.01  # activations in int8 add little to what rounding the weights cost


def test_codes_of_a_quantised_checkpoint_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "w4a16"
    quantise_model("demo", folder, Recipe("w4a16", "round", None), lambda *_: None)
    found = verify_export(export_model(folder, tmp_path / "graph", "portable", "int4"), folder)
    assert found.passed
    assert found.kl < 0.01  # only embedding and head, which that scheme leaves alone, are rounded to int8


def test_a_graph_with_a_wrong_number_fails(portable: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(portable, folder)
    model = onnx.load(folder / GRAPH_NAME, load_external_data=False)
    small = [(item, onnx.numpy_helper.to_array(item)) for item in model.graph.initializer if not item.external_data]
    scale = next(item for item, value in small if value.shape == () and value == np.float32(0.1))
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.9), scale.name))
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"another export's|is not the file that was exported"):
        verify_export(folder, "demo")
    raw = json.loads((folder / FILE_NAME).read_text())
    raw["digests"][GRAPH_NAME] = digest_of(folder / GRAPH_NAME)
    raw["sizes"][GRAPH_NAME] = (folder / GRAPH_NAME).stat().st_size
    (folder / FILE_NAME).write_text(json.dumps(raw))
    assert not verify_export(folder, "demo").passed


def test_what_is_no_checkpoint_is_no_yardstick(portable: Path) -> None:
    with pytest.raises(SettingsError, match="is no checkpoint"):
        verify_export(portable, portable)


def test_the_verb_prints_json_and_shows_every_check(
    portable: Path, verdict: Verdict, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", PROGRAM, "export", "verify", str(portable), "--against", "demo", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["passed"], found["contents"]["opsets"]) == (True, {"ai.onnx": 23})
    show(verdict)
    told = capsys.readouterr().out
    assert told.count("passed  ") == 5
    assert "crosses 1 boundaries" in told
