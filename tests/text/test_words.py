"""Texts as token sequences."""

from __future__ import annotations

from twofold import LLM
from twofold.text.words import spellings


def test_a_text_is_spelt_with_and_without_a_space_before_it_and_each_sequence_is_there_once() -> None:
    tokenizer = LLM("demo", dtype="w8a8", threads=1).tokenizer
    found = spellings(tokenizer, ["mayor", " mayor", "of"])
    assert {tokenizer.decode(ids) for ids in found} == {"mayor", " mayor", "of", " of"}
    assert len(found) == len(set(found)) == 4
