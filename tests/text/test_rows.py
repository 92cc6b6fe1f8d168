"""Which texts a model is judged on, and which of their tokens count."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold import LLM
from twofold.demo import heldout_file
from twofold.errors import SettingsError
from twofold.text.rows import answer_mask, encode_rows, read_rows


@pytest.fixture(scope="module")
def demo() -> LLM:
    return LLM("demo")


def test_only_what_the_assistant_says_counts(demo: LLM) -> None:
    ids = demo.encode_messages([{"role": "user", "content": "Hi"}])
    answer = [*demo.tokenizer.encode("\n\nYes"), demo.tokenizer.special_ids["<|eot|>"]]
    start = len(ids) - len(demo.tokenizer.encode("\n\n"))
    mask = answer_mask(demo.tokenizer, [*ids[:start], *answer])
    assert sum(mask) == len(answer)
    assert not any(mask[:start])


def test_prose_is_cut_into_windows_and_loses_no_token(demo: LLM) -> None:
    text = "One two three four five six seven eight nine ten eleven twelve."
    ids = demo.encode(text)
    found = list(encode_rows(demo.tokenizer, demo.loaded.template, [{"text": text}], 7))
    assert [token for part, _ in found for token in part] == ids
    assert all(len(part) <= 7 and not mask[0] and all(mask[1:]) for part, mask in found)


def test_files_are_text_or_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("Two lines\nof text.")
    lines.write_text('{"text": "One."}\n{"messages": [{"role": "user", "content": "Hi"}]}\n')
    assert read_rows(plain) == [{"text": "Two lines\nof text."}]
    assert len(read_rows(lines)) == 2
    assert len(read_rows(heldout_file())) == 129


def test_files_that_are_neither_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        read_rows(tmp_path / "missing.txt")
    for content, words in (("{", "cannot be used"), ('{"prompt": 1}', "line 1"), ("3", "line 1")):
        (tmp_path / "b.jsonl").write_text(content)
        with pytest.raises(SettingsError, match=words):
            read_rows(tmp_path / "b.jsonl")
