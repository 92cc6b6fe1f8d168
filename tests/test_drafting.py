"""A draft model is checked before a weight is read, and runs beside the main one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.weights.make import write_part
from twofold import LLM, SamplingParams
from twofold.demo import model_folder
from twofold.errors import ModelNotFound, OutOfMemory, SettingsError, TokenizerError
from twofold.loading import pack_model

HELLO = [{"role": "user", "content": "Hello!"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


def changed_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(model_folder(), folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    path.write_text(json.dumps(tokenizer))
    return folder


def test_another_vocabulary_size_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    write_part(model_folder(), folder, [0], {"no_rope_layers": [1], "vocab_size": 3073})
    with pytest.raises(SettingsError, match=r"vocabulary of 3073 tokens, the model one of 3072"):
        LLM("demo", draft=folder)


def test_other_tokens_are_refused_by_name(tmp_path: Path) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        words = tokenizer["model"]["vocab"]
        words["A"], words["B"] = words["B"], words["A"]

    with pytest.raises(TokenizerError, match=r"other has another vocabulary: token \d+ is b'B' there and b'A'"):
        LLM("demo", draft=changed_tokenizer(tmp_path / "other", swap))


def test_a_special_token_must_be_special_in_both(tmp_path: Path) -> None:
    def plain(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"][-1]["special"] = False

    with pytest.raises(TokenizerError, match="another vocabulary"):
        LLM("demo", draft=changed_tokenizer(tmp_path / "other", plain))


def test_the_same_tokens_in_another_file_are_fine(tmp_path: Path) -> None:
    def nothing(tokenizer: dict[str, Any]) -> None:
        del tokenizer["padding"]

    folder = changed_tokenizer(tmp_path / "same", nothing)
    assert LLM("demo", draft=folder).chat(HELLO, GREEDY).text == LLM("demo").chat(HELLO, GREEDY).text


def test_a_packed_draft_runs_as_packed_and_another_as_the_model_does(tmp_path: Path) -> None:
    packed = pack_model("demo", tmp_path / "packed", "w4a8")
    llm = LLM("demo", draft=packed)
    assert llm.draft is not None
    assert (llm.loaded.settings.dtype, llm.draft.settings.dtype) == ("bf16", "w4a8")
    other = LLM(packed, draft="demo", context=512)
    assert other.draft is not None
    assert (other.draft.settings.dtype, other.draft.settings.context) == ("w4a8", 512)
    assert other.draft.layout.global_blocks * other.draft.layout.block_size == 2 * 512


def test_the_cost_of_a_draft_is_what_it_reads_beside_the_model(tmp_path: Path) -> None:
    small = tmp_path / "small"
    write_part(model_folder(), small, [0], {"no_rope_layers": [1]})
    same, cheaper = LLM("demo", draft="demo").engine.guesser, LLM("demo", draft=small).engine.guesser
    assert same is not None
    assert cheaper is not None
    assert same.policy.draft_cost == 1.0
    assert cheaper.policy.draft_cost is not None
    assert 0.3 < cheaper.policy.draft_cost < 0.8
    assert same.policy.times.costs[0] == 1.0 < same.policy.times.costs[7]


def test_draft_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="guess_tokens is 0"):
        LLM("demo", draft="demo", guess_tokens=0)
    with pytest.raises(SettingsError, match="draft is 7"):
        LLM("demo", draft=7)
    with pytest.raises(ModelNotFound, match="nowhere"):
        LLM("demo", draft="./nowhere")


def test_too_little_memory_for_both_is_said_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.drafting.available_memory", lambda: 2**20)
    with pytest.raises(OutOfMemory):
        LLM("demo", draft="demo")
