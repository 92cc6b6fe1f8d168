"""Which kind of cache a model gets: int8 only where its folder says that it passed with these weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.weights.test_kv_verdict import PASSED
from twofold import LLM
from twofold.demo import model_folder
from twofold.errors import CheckpointError
from twofold.loading import pack_model
from twofold.quant.recipe import Recipe
from twofold.quantising import quantise_model
from twofold.weights.kv_verdict import FILE_NAME, find_verdict, write_verdict


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo model with a passed verdict for bf16 weights."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    write_verdict(folder, "bf16", PASSED)
    return folder


def kept(model: str | Path, **settings: object) -> tuple[str, str, tuple[str, ...]]:
    loaded = LLM(model, context=64, max_sequences=1, **settings).loaded
    return loaded.settings.kv_cache_dtype, loaded.kv_reason, loaded.warnings


def test_a_model_without_a_verdict_keeps_bf16() -> None:
    assert kept("demo") == ("bf16", "int8 was not tested for this model", ())


def test_a_passed_verdict_switches_int8_on_for_its_weights_only(folder: Path) -> None:
    chosen, reason, warnings = kept(folder)
    assert (chosen, warnings) == ("int8", ())
    assert "passed its test on 2026-01-02" in reason
    chosen, reason, warnings = kept(folder, dtype="w8a8")
    assert (chosen, reason) == ("bf16", "int8 was tested with bf16 weights, not with w8a8")
    assert "--gate-kv" in warnings[0]
    assert kept(folder, dtype="f32")[0] == "f32"
    assert kept(folder, backend="reference")[0] == "f32"
    assert kept(folder, kv_cache_dtype="bf16")[0] == "bf16"


def test_int8_without_a_passed_test_works_with_one_line_of_warning(folder: Path) -> None:
    chosen, _, warnings = kept("demo", kv_cache_dtype="int8")
    assert chosen == "int8"
    assert len(warnings) == 1
    assert "int8 as asked for, but int8 was not tested for this model" in warnings[0]
    assert "twofold eval MODEL --gate-kv" in warnings[0]
    assert kept(folder, kv_cache_dtype="int8")[2] == ()


def test_a_verdict_of_other_weights_is_ignored_aloud(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek((folder / "model.safetensors").stat().st_size // 128)
        file.write(b"\x3c" * 4096)
    chosen, _, warnings = kept(folder)
    assert chosen == "bf16"
    assert len(warnings) == 1
    assert "of another model or of other weights and is ignored" in warnings[0]


def test_a_damaged_verdict_is_an_error_that_names_its_file(folder: Path) -> None:
    (folder / FILE_NAME).write_text("[]")
    with pytest.raises(CheckpointError, match=r"kv_cache\.json"):
        LLM(folder)


def test_packing_carries_the_verdict_of_the_weights_it_packs(folder: Path, tmp_path: Path) -> None:
    for dtype, expected in (("bf16", PASSED), ("w8a8", None)):
        output = pack_model(folder, tmp_path / dtype, dtype)
        assert find_verdict(output, dtype)[0] == expected
        assert (output / FILE_NAME).exists() == (expected is not None)


def test_quantising_leaves_the_verdict_of_the_original_behind(folder: Path, tmp_path: Path) -> None:
    output = quantise_model(folder, tmp_path / "out", Recipe("w8a8", "round"))
    assert not (output / FILE_NAME).exists()
