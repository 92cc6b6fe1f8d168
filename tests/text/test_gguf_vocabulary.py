"""A GGUF file's tokenizer is that of the folder it was made from: ids, texts, streams, special tokens, template."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core

from tests.weights.make_gguf import add_tokenizer
from twofold.demo import model_folder
from twofold.errors import TokenizerError
from twofold.text.chat import ChatTemplate, encode_chat
from twofold.text.gguf_vocabulary import NORMAL, end_ids, read_gguf_tokenizer
from twofold.text.stream import TextStream
from twofold.text.tokenizer import Tokenizer
from twofold.weights.gguf import GgufFile

from .conftest import corpus

FAMILIES = ("llama4", "llama3", "llama2", "demo")
MIXED = [
    "", " ", "Hello, world!", "  two  spaces\n\n\ttab", "I'm HelloWorld camelCase they'LL", "12345678 9",
    "café naïve 😀",
    "你好，世界", "<|eot|> <|eot_id|> </s> <s> <unk> <0x0A>", "def f(x):\n    return x**2\n", "https://a.b/c//d",
    "\u2581already\u2581there", "e\u0301", "\x00\x7f\u200b", "Straße ﬁn İ", "🏳️‍🌈🏳️‍🌈",
]  # fmt: skip
TRICKY = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<|>_\n \tsaeot'IAbB0123/é▁"), max_size=60)
MESSAGES = [{"role": "user", "content": "Hello <|eot|>!"}]


def source(name: str, folders: dict[str, Path]) -> Path:
    return model_folder() if name == "demo" else folders[name]


def write(folder: Path, path: Path) -> dict[str, Any]:
    """Metadata of a GGUF file with the tokenizer of a folder, as it is read back."""
    import numpy as np

    writer = GGUFWriter(path, "llama")
    add_tokenizer(writer, folder)
    writer.add_tensor("x", np.zeros((1, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path).metadata


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """Tokenizers of the folders and of the GGUF files."""
    place = tmp_path_factory.mktemp("gguf")
    found = {}
    for name in FAMILIES:
        folder = source(name, folders)
        metadata = write(folder, place / f"{name}.gguf")
        found[name] = Tokenizer.load(folder), Tokenizer.build(*read_gguf_tokenizer(metadata))
    return found


@pytest.fixture
def metadata(folders: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    return write(folders["llama3"], tmp_path / "m.gguf")


@pytest.fixture
def pieces(folders: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """A sentencepiece vocabulary."""
    return write(folders["llama2"], tmp_path / "m.gguf")


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_the_folder_and_of_tokenizers_itself(
    name: str, pairs: dict[str, tuple[Tokenizer, Tokenizer]], folders: dict[str, Path]
) -> None:
    ours, found = pairs[name]
    core = Core.from_file(str(source(name, folders) / "tokenizer.json"))
    rng = random.Random(3)
    noise = ["".join(rng.choices("ab cdé你 \n\t<>|1 2'", k=50)) for _ in range(200)]
    for text in [*MIXED, *corpus()[:100], *noise]:
        ids = found.encode(text, bos=True)
        assert ids == ours.encode(text, bos=True)
        assert found.decode(ids) == ours.decode(ids)
        if text and not any(literal in text for literal in ours.literals):
            assert ids[1:] == core.encode(text, add_special_tokens=False).ids

    @given(TRICKY)
    @settings(max_examples=150, deadline=None)
    def agree(text: str) -> None:
        assert found.encode(text) == ours.encode(text)
        assert found.encode_with_specials(text) == ours.encode_with_specials(text)

    agree()


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_names_and_sizes_are_the_same(name: str, pairs: dict[str, tuple[Tokenizer, Tokenizer]]) -> None:
    ours, found = pairs[name]
    assert found.special_ids == ours.special_ids
    assert (found.bos_id, found.adds_bos, found.vocabulary_size) == (ours.bos_id, True, ours.vocabulary_size)
    assert (found.bos_token, found.eos_token) == (ours.bos_token, ours.eos_token)
    for token in range(ours.vocabulary_size):
        assert found.token_bytes(token) == ours.token_bytes(token)
        assert found.is_special(token) == ours.is_special(token)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_streams_are_the_same(name: str, pairs: dict[str, tuple[Tokenizer, Tokenizer]]) -> None:
    ours, found = pairs[name]
    rng = random.Random(9)
    for _ in range(20):
        ids = [rng.randrange(ours.vocabulary_size) for _ in range(40)]
        streams = TextStream(ours, stop=["e\n"]), TextStream(found, stop=["e\n"])
        assert [streams[0].feed(token) for token in ids] == [streams[1].feed(token) for token in ids]
        assert streams[0].flush() == streams[1].flush()


def test_a_conversation_becomes_the_same_ids(pairs: dict[str, tuple[Tokenizer, Tokenizer]], tmp_path: Path) -> None:
    ours, found = pairs["demo"]
    template = ChatTemplate.of(read_gguf_tokenizer(write(model_folder(), tmp_path / "m.gguf"))[1], "none")
    expected = encode_chat(ours, ChatTemplate.load(model_folder(), "llama4"), MESSAGES)
    assert encode_chat(found, template, MESSAGES) == expected


def test_named_templates_are_kept_and_a_missing_one_is_built_in(metadata: dict[str, Any]) -> None:
    config = read_gguf_tokenizer(metadata)[1]
    assert "chat_template" not in config
    assert ChatTemplate.of(config, "llama3").sources == ChatTemplate.built_in("llama3").sources
    more = {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b", "tokenizer.chat_templates": ["x"]}
    assert ChatTemplate.of(read_gguf_tokenizer(metadata | more)[1], "").sources == {"default": "a", "tool_use": "b"}


def test_ends_are_named_by_keys_and_by_their_texts(metadata: dict[str, Any], pieces: dict[str, Any]) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    spelled = [tokens.index(text) for text in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    assert end_ids(metadata) == sorted(spelled)
    assert end_ids(metadata | {"tokenizer.ggml.eot_token_id": 7}) == [7, *sorted(spelled)]
    assert end_ids(pieces) == [2]
    assert end_ids({}) == []


def test_a_file_that_wants_no_begin_token_gets_none(metadata: dict[str, Any]) -> None:
    found = Tokenizer.build(*read_gguf_tokenizer(metadata | {"tokenizer.ggml.add_bos_token": False}))
    assert found.encode("Hello", bos=True) == found.encode("Hello")
    assert found.bos_id is not None
    template = ChatTemplate({"default": "{{ bos_token }}{{ messages[0].content }}"})
    assert encode_chat(found, template, MESSAGES)[:2].count(found.bos_id) == 1
    assert encode_chat(found, ChatTemplate({"default": "{{ messages[0].content }}"}), MESSAGES)[0] != found.bos_id


def test_unused_tokens_leave_ids_where_they_are(metadata: dict[str, Any]) -> None:
    before = Tokenizer.build(*read_gguf_tokenizer(metadata))
    tokens = [*metadata["tokenizer.ggml.tokens"], "[PAD1]", "<|late|>"]
    types = [*metadata["tokenizer.ggml.token_type"], 5, 3]
    changed = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    found = Tokenizer.build(*read_gguf_tokenizer(metadata | changed))
    assert found.special_ids == {**before.special_ids, "<|late|>": len(tokens) - 1}
    assert all(found.encode(text) == before.encode(text) for text in [*MIXED, *corpus()[:50]])


def test_literals_of_two_kinds_in_any_order_keep_their_ids(metadata: dict[str, Any]) -> None:
    base = metadata["tokenizer.ggml.tokens"]
    more = [f"[x{index}]" for index in range(60)]
    types = [*metadata["tokenizer.ggml.token_type"], *([3, 4] * 30)]
    changed = {"tokenizer.ggml.tokens": [*base, *more], "tokenizer.ggml.token_type": types}
    found = Tokenizer.build(*read_gguf_tokenizer(metadata | changed))
    assert found.encode_with_specials("[x0][x1]a[x59]") == [
        len(base),
        len(base) + 1,
        *found.encode("a"),
        len(base) + 59,
    ]
    assert "[x0]" in found.special_ids
    assert "[x1]" not in found.special_ids


def test_an_ordinary_word_named_as_pad_stays_a_word(metadata: dict[str, Any]) -> None:
    found = Tokenizer.build(*read_gguf_tokenizer(metadata | {"tokenizer.ggml.padding_token_id": 0}))
    assert not found.is_special(0)


def test_scores_that_are_all_alike_leave_it_to_the_ids(pieces: dict[str, Any]) -> None:
    """In a sentencepiece model pieces are numbered in the order of their scores, as they are not in this toy."""
    tokens, types = pieces["tokenizer.ggml.tokens"], pieces["tokenizer.ggml.token_type"]
    scores = pieces["tokenizer.ggml.scores"]
    order = sorted(
        range(len(tokens)), key=lambda index: (types[index] == NORMAL, -scores[index] * (types[index] == NORMAL))
    )
    ordered = {
        "tokenizer.ggml.tokens": [tokens[index] for index in order],
        "tokenizer.ggml.token_type": [types[index] for index in order],
        "tokenizer.ggml.scores": [scores[index] for index in order],
    }
    told = Tokenizer.build(*read_gguf_tokenizer(pieces | ordered))
    alike = Tokenizer.build(*read_gguf_tokenizer(pieces | ordered | {"tokenizer.ggml.scores": [-1000.0] * len(tokens)}))
    assert all(told.encode(text) == alike.encode(text) for text in [*MIXED, *corpus()[:100]])


def test_no_space_is_put_in_front_where_the_file_says_so(pieces: dict[str, Any]) -> None:
    found = Tokenizer.build(*read_gguf_tokenizer(pieces | {"tokenizer.ggml.add_space_prefix": False}))
    assert found.decode(found.encode(" a")) == " a"
    assert not found.strips_first_space


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "no_vocab"}, "'no_vocab'; 'gpt2'"),
        ({"model": None}, "tokenizer.ggml.model' is None"),
        ({"pre": "qwen2"}, "'qwen2'; llama-bpe, llama3"),
        ({"pre": None}, "how texts are split"),
        ({"tokens": None}, "tokens' is missing"),
        ({"tokens": []}, "tokens' is no list"),
        ({"tokens": [1, 2]}, "tokens' is no list"),
        ({"token_type": [1, 1]}, "has 2 entries for"),
        ({"token_type": None}, "token_type' is missing"),
        ({"merges": None}, "merges' is missing"),
        ({"merges": ["a b c"]}, "number 0 is 'a b c'"),
        ({"merges": ["ab"]}, "number 0 is 'ab'"),
        ({"merges": ["H \u00ff"]}, "which join to a third"),
        ({"bos_token_id": 10**6}, "bos_token_id' is 1000000; an id below"),
        ({"eos_token_id": -1}, "eos_token_id' is -1"),
        ({"eos_token_id": "x"}, "eos_token_id' is 'x'"),
    ],
)  # fmt: skip
def test_damaged_vocabularies_are_refused_by_their_keys(
    metadata: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    broken = metadata | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.build(*read_gguf_tokenizer(broken))


def test_tokens_that_are_there_twice_or_empty_are_refused(metadata: dict[str, Any]) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    for wrong, words in ((tokens[0], "token 0 too"), ("", "is empty")):
        with pytest.raises(TokenizerError, match=words):
            read_gguf_tokenizer(metadata | {"tokenizer.ggml.tokens": [*tokens[:5], wrong, *tokens[6:]]})
    types = [9, *metadata["tokenizer.ggml.token_type"][1:]]
    with pytest.raises(TokenizerError, match="other types than 1 to 6"):
        read_gguf_tokenizer(metadata | {"tokenizer.ggml.token_type": types})


def test_damaged_sentencepiece_vocabularies_are_refused(pieces: dict[str, Any]) -> None:
    tokens, scores = pieces["tokenizer.ggml.tokens"], pieces["tokenizer.ggml.scores"]
    lost = [("[lost]" if token == "<0x41>" else token) for token in tokens]
    long = [*tokens[:-1], "a" * 600]
    for changes, words in (
        ({"tokens": lost}, "lacks 1 of the 256 byte tokens"),
        ({"scores": scores[1:]}, "scores' has"),
        ({"scores": [float("nan"), *scores[1:]]}, "no numbers"),
        ({"tokens": long}, "600 characters"),
    ):
        with pytest.raises(TokenizerError, match=words):
            read_gguf_tokenizer(pieces | {f"tokenizer.ggml.{name}": value for name, value in changes.items()})


def test_a_template_that_is_no_text_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="chat_template' is no text"):
        read_gguf_tokenizer(metadata | {"tokenizer.chat_template": 5})
