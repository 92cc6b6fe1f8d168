"""A vocabulary for networks with random weights, so that servers have words to write: the same ids mean the same words.

Every id is a word of its own but for the single bytes at the beginning and two special tokens at the end.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from tokenizers import pre_tokenizers

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
SPACE = "\u0120"  # how byte-level vocabularies write it
MERGE = (SPACE, "a")  # neither side likes a vocabulary without any
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
NORMAL, CONTROL = 1, 3
"""Token types in a GGUF file."""


def all_words(count: int) -> list[str]:
    """The vocabulary, by id: 256 bytes, words in the order a, b, ... aa, ab, and the two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*alphabet, *(SPACE + name(number) for number in range(count - len(alphabet) - 2)), BEGIN, END]


def name(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    number, letter = divmod(number, len(LETTERS))
    return (name(number - 1) if number else "") + LETTERS[letter]


def prompt(vocabulary: int, tokens: int, seed: int) -> list[int]:
    """Ids of random words."""
    source = random.Random(seed)
    return [source.randrange(256, vocabulary - 2) for _ in range(tokens)]


def write_tokenizer(folder: Path, count: int) -> None:
    """tokenizer.json of this vocabulary."""
    words = all_words(count)
    special = [{"id": words.index(text), "content": text, "special": True, **PLAIN} for text in (BEGIN, END)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {word: number for number, word in enumerate(words[:-2])}, "merges": [list(MERGE)]}
    content = {"version": "1.0", "added_tokens": special, "pre_tokenizer": level, "decoder": level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def with_tokenizer(packed: Path) -> Path:
    """The same packed folder with this vocabulary, beside it; the weights are linked."""
    folder = packed.with_name(packed.name + "-words")
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for path in packed.iterdir():
            if path.name not in os.listdir(partial):
                os.link(path, partial / path.name)
        (partial / "tokenizer.json").unlink()
        write_tokenizer(partial, json.loads((packed / "config.json").read_text())["vocab_size"])
        partial.rename(folder)
    return folder


def with_vocabulary(plain: Path) -> Path:
    """The same GGUF file with this vocabulary, beside it."""
    path = plain.with_name(f"{plain.stem}-words.gguf")
    if not path.exists():
        temporary = path.with_suffix(".partial")
        copy_gguf(plain, temporary)
        temporary.rename(path)
    return path


def copy_gguf(plain: Path, target: Path) -> None:
    """All fields and tensors as they are, but for the vocabulary."""
    reader = GGUFReader(plain)
    fields = dict(kept_fields(reader))
    writer = GGUFWriter(target, fields.pop("general.architecture")[0])
    for key, (value, kind) in fields.items():
        writer.add_key_value(key, value, kind)
    count = next(value for key, (value, _) in fields.items() if key.endswith(".vocab_size"))
    add_vocabulary(writer, all_words(int(count)))
    for tensor in reader.tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw_dtype=tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def kept_fields(reader: GGUFReader) -> Iterator[tuple[str, tuple[Any, GGUFValueType]]]:
    """Settings of the network with their types; none of the fields is a list."""
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.")):
            yield key, (field.contents(), field.types[0])


def add_vocabulary(writer: GGUFWriter, words: list[str]) -> None:
    """The words in llama.cpp's terms."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(words)
    writer.add_token_types([NORMAL] * (len(words) - 2) + [CONTROL] * 2)
    writer.add_token_merges([" ".join(MERGE)])
    writer.add_bos_token_id(len(words) - 2)
    writer.add_eos_token_id(len(words) - 1)
