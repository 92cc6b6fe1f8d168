"""A verdict about int8 keys and values holds for the very weights it was made with, and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from twofold.errors import CheckpointError, SettingsError
from twofold.weights.kv_verdict import FILE_NAME, KvVerdict, carry_verdict, find_verdict, write_verdict
from twofold.weights.write import write_safetensors

PASSED = KvVerdict(
    passed=True, tokens=4096, longest=2048, int8_kl=0.001, int8_kl_p99=0.02, int8_agreement=0.99, bf16_kl=0.0005,
    bf16_agreement=0.995, worst_excess=0.001, text="0" * 64, date="2026-01-02T03:04:05+00:00",
)  # fmt: skip


def write_model(folder: Path, seed: int = 0, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, **config}))
    weights = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    write_safetensors(folder / "model.safetensors", {"w": weights})
    return folder


def test_a_verdict_is_found_again_with_its_figures(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert find_verdict(folder, "bf16") == (None, "int8 was not tested for this model")
    write_verdict(folder, "w4a8", PASSED)
    write_verdict(folder, "w8a8", replace(PASSED, passed=False))
    found, words = find_verdict(folder, "w4a8")
    assert found == PASSED
    assert words == PASSED.in_words()
    assert "passed its test on 2026-01-02" in words
    assert "failed" in find_verdict(folder, "w8a8")[1]
    assert find_verdict(folder, "bf16") == (None, "int8 was tested with w4a8, w8a8 weights, not with bf16")


@pytest.mark.parametrize("change", ["config", "weights", "size"])
def test_a_verdict_about_another_model_is_not_applied(change: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    write_verdict(folder, "bf16", PASSED)
    other = write_model(tmp_path / "other", seed=change == "weights", **({"layers": 2} if change == "config" else {}))
    if change == "size":
        write_safetensors(other / "extra.safetensors", {"v": np.zeros(1, np.float32)})
    (other / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes())
    found, words = find_verdict(other, "bf16")
    assert found is None
    assert "of another model or of other weights" in words
    write_verdict(other, "w4a8", PASSED)
    assert find_verdict(other, "bf16")[0] is None  # the foreign verdict went with its fingerprint
    assert find_verdict(other, "w4a8")[0] == PASSED


def test_a_verdict_is_carried_only_where_there_is_one(tmp_path: Path) -> None:
    source, target = write_model(tmp_path / "source"), write_model(tmp_path / "target", seed=1)
    carry_verdict(source, target, "w4a8")
    assert not (target / FILE_NAME).exists()
    write_verdict(source, "w4a8", PASSED)
    carry_verdict(source, target, "bf16")
    assert not (target / FILE_NAME).exists()
    carry_verdict(source, target, "w4a8")
    assert find_verdict(target, "w4a8")[0] == PASSED


DAMAGE: dict[str, Callable[[dict], object]] = {
    "is not valid JSON": lambda raw: None,
    "version 2": lambda raw: raw | {"version": 2},
    "a model and its verdicts were expected": lambda raw: raw | {"verdicts": []},
    "the fields passed": lambda raw: raw | {"verdicts": {"bf16": {"passed": True}}},
    "passed is 1; bool was expected": lambda raw: raw | {"verdicts": {"bf16": asdict(PASSED) | {"passed": 1}}},
    "int8_kl is 'low'": lambda raw: raw | {"verdicts": {"bf16": asdict(PASSED) | {"int8_kl": "low"}}},
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_damaged_file_is_a_clear_error(words: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    write_verdict(folder, "bf16", PASSED)
    damaged = DAMAGE[words](json.loads((folder / FILE_NAME).read_text()))
    (folder / FILE_NAME).write_text("{" if damaged is None else json.dumps(damaged))
    with pytest.raises(CheckpointError, match=words):
        find_verdict(folder, "bf16")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(SettingsError, match=r"kv_cache\.json cannot be written: Permission denied"):
        write_verdict(folder, "bf16", PASSED)
