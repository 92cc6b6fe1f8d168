"""The vocabulary of the networks with random weights means the same to both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from benchmarks.serving.words import all_words, name, prompt, with_tokenizer, with_vocabulary, write_tokenizer
from twofold.text.tokenizer import Tokenizer

COUNT = 1100


def test_words_are_counted_like_columns_of_a_sheet() -> None:
    assert [name(number) for number in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


def test_every_id_of_a_prompt_is_a_word_and_seeds_differ() -> None:
    assert prompt(COUNT, 50, 1) == prompt(COUNT, 50, 1) != prompt(COUNT, 50, 2)
    assert all(256 <= token < COUNT - 2 for token in prompt(COUNT, 5000, 3))


def test_the_tokenizer_has_a_text_for_every_id_and_knows_its_two_special_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, COUNT)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocabulary_size == COUNT
    assert tokenizer.special_ids == {"<|begin_of_text|>": COUNT - 2, "<|end_of_text|>": COUNT - 1}
    texts = [tokenizer.token_bytes(token) for token in range(COUNT - 2)]
    assert len(set(texts)) == COUNT - 2
    assert texts[256:259] == [b" a", b" b", b" c"]


def test_a_packed_folder_is_linked_not_copied_and_keeps_its_own_tokenizer(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "config.json").write_text(f'{{"vocab_size": {COUNT}}}')
    (packed / "tokenizer.json").write_text("another one")
    (packed / "weights.twofold").write_bytes(b"weights")
    folder = with_tokenizer(packed)
    assert (folder / "weights.twofold").stat().st_ino == (packed / "weights.twofold").stat().st_ino
    assert Tokenizer.load(folder).vocabulary_size == COUNT
    assert (packed / "tokenizer.json").read_text() == "another one"
    assert with_tokenizer(packed) == folder  # made once


def test_a_gguf_file_keeps_its_settings_and_tensors_and_gets_the_same_words(tmp_path: Path) -> None:
    plain = tmp_path / "net-Q4_0.gguf"
    values = np.random.default_rng(5).standard_normal((3, 64)).astype(np.float32)
    writer = GGUFWriter(plain, "llama")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(COUNT)
    writer.add_rope_freq_base(500000.0)
    writer.add_tensor("token_embd.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GGUFReader(with_vocabulary(plain))
    assert found.fields["llama.rope.freq_base"].contents() == pytest.approx(500000.0)
    assert found.fields["tokenizer.ggml.tokens"].contents() == all_words(COUNT)
    assert found.fields["tokenizer.ggml.bos_token_id"].contents() == COUNT - 2
    np.testing.assert_array_equal(found.tensors[0].data, values)
