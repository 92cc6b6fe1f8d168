"""`twofold eval`: what it measures, and what it refuses to compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twofold import LLM
from twofold.bench.evaluate import errors_by_layer, evaluate
from twofold.errors import SettingsError

ROWS = [{"text": "def add(a, b):\n    return a + b\n"}]


def test_figures_of_a_model_alone_and_against_another() -> None:
    bf16, coarse = LLM("demo"), LLM("demo", dtype="w4a8")
    alone, beside = evaluate(coarse, ROWS, None), evaluate(coarse, ROWS, bf16)
    assert alone.dtype == "w4a8"
    assert alone.kl_mean is None
    assert beside.loss == alone.loss
    assert beside.kl_mean is not None
    assert 0 < beside.kl_mean < 1
    line = json.loads(beside.to_json(model="demo"))
    assert line["model"] == "demo"
    assert line["tokens"] == beside.tokens
    assert "exact" not in line
    assert len(errors_by_layer(coarse, ROWS, bf16)) == 4


def test_models_with_other_vocabularies_are_not_compared(tmp_path: Path) -> None:
    demo = LLM("demo")
    folder = tmp_path / "other"
    demo_folder = demo.loaded.model.folder
    folder.mkdir()
    for path in demo_folder.iterdir():
        (folder / path.name).symlink_to(path)
    tokenizer = json.loads((demo_folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:100]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SettingsError, match="do not share a tokenizer"):
        evaluate(demo, ROWS, LLM(folder))


def test_a_text_without_tokens_to_judge_is_refused() -> None:
    with pytest.raises(SettingsError, match="no token to judge"):
        evaluate(LLM("demo"), [{"text": ""}], None)
