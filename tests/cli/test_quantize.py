"""The test of int8 keys and values at the end of `twofold quantize`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twofold.bench import kv_gate
from twofold.cli.quantize import try_kv_cache
from twofold.demo import heldout_file, model_folder
from twofold.weights.kv_verdict import FILE_NAME


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder(), tmp_path / "model"))


def test_the_verdict_is_written_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kv_gate, "MOST_TOKENS", 3 * 2048)
    try_kv_cache(folder, heldout_file())
    assert capsys.readouterr().out.startswith("int8 passed its test on ")
    assert (folder / FILE_NAME).exists()


def test_a_text_too_short_leaves_the_folder_as_it_is_and_says_how_to_go_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    try_kv_cache(folder, tmp_path / "short.txt")
    told = capsys.readouterr().out
    assert "int8 keys and values were not tested" in told
    assert "--gate-kv --text FILE" in told
    assert not (folder / FILE_NAME).exists()
