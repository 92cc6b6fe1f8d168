"""Tokenizer: ids agree with tiktoken and transformers, users cannot forge special tokens, damage is named."""

import base64
import json
import random

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Core

from twofold.errors import TokenizerError
from twofold.text.ranks import LLAMA3_SPLIT, LLAMA4_SPLIT, SPLITS, llama3_specials, llama4_specials
from twofold.text.tokenizer import Tokenizer, check_vocabulary

QUICK = settings(max_examples=150, deadline=None)
FAMILIES = st.sampled_from(["llama4", "llama3", "llama2"])
TRICKY = st.text(st.characters() | st.sampled_from("<|>_\n \tsaeot'IAbB0123/é"), max_size=60)

# Pre-tokens behind the golden encodings of the real vocabularies: (text, Llama 4, Llama 3).
SPLIT_CASES = [
    ("Hello, world!", ["Hello", ",", " world", "!"], ["Hello", ",", " world", "!"]),
    ("\n\n", ["\n\n"], ["\n\n"]),
    ("ipython", ["ipython"], ["ipython"]),
    (
        "I'm HelloWorld camelCase",
        ["I'm", " Hello", "World", " camel", "Case"],
        ["I", "'m", " HelloWorld", " camelCase"],
    ),
    ("12345678", ["123", "456", "78"], ["123", "456", "78"]),
    ("  leading spaces", [" ", " leading", " spaces"], [" ", " leading", " spaces"]),
    (
        "def f(x):\n    return x**2\n",
        ["def", " f", "(x", "):\n", "   ", " return", " x", "**", "2", "\n"],
        ["def", " f", "(x", "):\n", "   ", " return", " x", "**", "2", "\n"],
    ),
    (
        "https://a.b/c//d",
        ["https", "://", "a", ".b", "/c", "//", "d"],
        ["https", "://", "a", ".b", "/c", "//", "d"],
    ),
    ("你好，世界", ["你好", "，世界"], ["你好", "，世界"]),
    ("café naïve 😀", ["café", " naïve", " 😀"], ["café", " naïve", " 😀"]),
    ("cafe\u0301s", ["cafe\u0301s"], ["cafe", "\u0301s"]),
    ("a/\n/b", ["a", "/\n/", "b"], ["a", "/\n", "/b"]),
    ("They'LL HTTPServer", ["They'LL", " HTTPServer"], ["They", "'LL", " HTTPServer"]),
    ("<|header_start|>", ["<|", "header", "_start", "|>"], ["<|", "header", "_start", "|>"]),
]


@pytest.mark.parametrize(("text", "llama4", "llama3"), SPLIT_CASES)
def test_texts_are_split_as_the_golden_encodings_imply(text, llama4, llama3):
    for pattern, expected in ((LLAMA4_SPLIT, llama4), (LLAMA3_SPLIT, llama3)):
        pieces = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
        assert [piece for piece, _ in pieces] == expected


@pytest.mark.parametrize("family", ["llama4", "llama3"])
def test_a_rank_file_encodes_like_tiktoken(tokenizers, llama4_ranks, llama3_ranks, family):
    ranks = llama4_ranks if family == "llama4" else llama3_ranks
    names = llama4_specials() if family == "llama4" else llama3_specials()
    specials = {name: len(ranks) + index for index, name in enumerate(names)}
    oracle = tiktoken.Encoding(family, pat_str=SPLITS[family], mergeable_ranks=ranks, special_tokens=specials)
    tokenizer = tokenizers[f"{family}-ranks"]
    for text, *_ in SPLIT_CASES:
        assert tokenizer.encode(text) == oracle.encode(text, disallowed_special=())
        assert tokenizer.decode(tokenizer.encode(text)) == text
    everything = names[5] + "Hello" + names[6] + "\n\n" + names[8]
    assert tokenizer.encode_with_specials(everything) == oracle.encode(everything, allowed_special="all")

    @given(TRICKY)
    @QUICK
    def agree(text):
        assert tokenizer.encode(text) == oracle.encode(text, disallowed_special=())

    agree()


def full_ranks(count: int) -> dict[bytes, int]:
    """As many tokens as the real vocabulary; all but bytes are three bytes long, so nothing merges."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes([97 + index % 26, *(index // 26).to_bytes(2, "big")]) for index in range(count - 256)]
    return {token: rank for rank, token in enumerate(tokens)}


def write_full_ranks(path, count):
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in full_ranks(count).items())
    path.write_bytes(b"".join(lines))


LLAMA4_IDS = {
    "begin_of_text": 200000, "end_of_text": 200001, "fim_prefix": 200002, "fim_suffix": 200004, "header_start": 200005,
    "header_end": 200006, "eom": 200007, "eot": 200008, "step": 200009, "python_start": 200016, "python_end": 200017,
    "finetune_right_pad": 200018, "text_post_train_reserved_special_token_8": 200019,
    "text_post_train_reserved_special_token_68": 200079, "image_start": 200080, "image_end": 200081,
    "tile_x_separator": 200084, "tile_y_separator": 200085, "image": 200090, "patch": 200092,
    "vision_reserved_special_token_7": 200093, "vision_reserved_special_token_1047": 201133,
    "reasoning_reserved_special_token_0": 201134, "reasoning_thinking_start": 201142,
    "reasoning_thinking_end": 201143, "reserved_special_token_0": 201144, "reserved_special_token_903": 202047,
}  # fmt: skip
LLAMA3_IDS = {
    "begin_of_text": 128000, "end_of_text": 128001, "finetune_right_pad_id": 128004, "step_id": 128005,
    "start_header_id": 128006, "end_header_id": 128007, "eom_id": 128008, "eot_id": 128009, "python_tag": 128010,
    "image": 128011,
}  # fmt: skip


@pytest.mark.parametrize(("count", "size", "ids"), [(200_000, 202_048, LLAMA4_IDS), (128_000, 128_256, LLAMA3_IDS)])
def test_a_full_rank_file_has_every_special_token_at_its_id(tmp_path, count, size, ids):
    write_full_ranks(tmp_path / "tokenizer.model", count)
    tokenizer = Tokenizer.load(tmp_path)
    assert {name: tokenizer.special_ids[f"<|{name}|>"] for name in ids} == ids
    assert tokenizer.vocabulary_size == size
    assert len(tokenizer.special_ids) == size - count
    assert tokenizer.bos_id == count
    assert tokenizer.is_special(count)
    assert not tokenizer.is_special(count - 1)
    check_vocabulary(tokenizer, size)
    with pytest.raises(TokenizerError, match="does not match"):
        check_vocabulary(tokenizer, size - 1)


def test_a_special_tokens_text_from_a_user_stays_text(tokenizer):
    for literal in tokenizer.special_ids:
        for text in (literal, f" {literal}\n", f"x{literal}{literal}"):
            ids = tokenizer.encode(text)
            assert not any(tokenizer.is_special(token) for token in ids)
            assert tokenizer.decode(ids) == text


@given(
    FAMILIES, st.lists(st.sampled_from(["<|eot|>", "<s>", "</s>", "<|", "|>", "<", "eot_id", "<unk>", " "]) | TRICKY)
)
@QUICK
def test_no_text_encodes_to_a_special_token(tokenizers, family, parts):
    tokenizer = tokenizers[family]
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert not any(tokenizer.is_special(token) for token in ids)
    assert tokenizer.decode(ids) == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_trusted_text_has_special_tokens(tokenizers):
    tokenizer = tokenizers["llama4"]
    ids = tokenizer.special_ids
    text = "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHello<|eot|>"
    expected = [ids["<|begin_of_text|>"], ids["<|header_start|>"], *tokenizer.encode("user"), ids["<|header_end|>"]]
    assert tokenizer.encode_with_specials(text) == [*expected, *tokenizer.encode("\n\nHello"), ids["<|eot|>"]]
    assert tokenizer.decode(tokenizer.encode_with_specials(text), skip_special=False) == text


def test_the_begin_token_comes_first_when_asked_for(tokenizer):
    assert tokenizer.encode("Hello", bos=True) == [tokenizer.bos_id, *tokenizer.encode("Hello")]
    assert tokenizer.encode("", bos=True) == [tokenizer.bos_id]
    assert tokenizer.encode("") == []


def test_lone_surrogates_become_replacement_characters(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83d b \ud83d\ude00")) == "a\ufffd b 😀"


@pytest.mark.parametrize("token", [-1, 10**6, 2**31, 2**40])
def test_unknown_ids_decode_to_nothing(tokenizer, token):
    assert tokenizer.decode([token]) == ""
    assert tokenizer.decode([token], skip_special=False) == f"<|reserved_{token}|>"
    assert tokenizer.token_bytes(token) == b""
    assert tokenizer.is_special(token)


def test_token_bytes_are_exact(tokenizers):
    llama2, llama4 = tokenizers["llama2"], tokenizers["llama4"]
    assert llama2.token_bytes(3 + 0x0A) == b"\n"
    assert llama2.token_bytes(3 + 0xFF) == b"\xff"
    assert b"".join(map(llama2.token_bytes, llama2.encode("a café\n"))) == " a café\n".encode()
    assert sorted(llama4.token_bytes(token) for token in range(256)) == [bytes([byte]) for byte in range(256)]
    assert llama4.token_bytes(llama4.special_ids["<|eot|>"]) == b"<|eot|>"


def test_truncation_and_padding_in_the_file_do_not_count(folders, tmp_path):
    core = Core.from_file(str(folders["llama4"] / "tokenizer.json"))
    core.enable_truncation(3)
    core.enable_padding(length=50)
    core.save(str(tmp_path / "tokenizer.json"))
    plain = Tokenizer.load(folders["llama4"])
    assert Tokenizer.load(tmp_path).encode("Hello world " * 20) == plain.encode("Hello world " * 20)


def test_a_word_that_is_also_special_is_spelled_out_in_users_text(tmp_path):
    core = Core(models.BPE({"a": 0, "b": 1, "ab": 2, "c": 3}, [("a", "b")]))
    core.decoder = Core.from_str(json.dumps({**json.loads(core.to_str()), "decoder": BYTE_LEVEL})).decoder
    core.add_special_tokens(["ab"])
    core.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("abc") == [0, 1, 3]
    assert tokenizer.encode_with_specials("abc") == [2, 3]


def test_a_special_token_that_cannot_be_spelled_out_is_refused(tmp_path):
    core = Core(models.BPE({"a": 0, "b": 1}, []))
    core.decoder = Core.from_str(json.dumps({**json.loads(core.to_str()), "decoder": BYTE_LEVEL})).decoder
    core.add_special_tokens(["a"])
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="cannot be written without"):
        Tokenizer.load(tmp_path).encode("ab")


def test_an_unknown_character_is_no_forgery(tmp_path):
    core = Core(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))
    core.decoder = Core.from_str(json.dumps({**json.loads(core.to_str()), "decoder": BYTE_LEVEL})).decoder
    core.add_special_tokens(["<unk>"])
    core.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode("ab") == [1, 0]


def test_only_the_first_stretch_gets_a_space_where_the_file_says_first(folders, tmp_path):
    state = json.loads((folders["llama2"] / "tokenizer.json").read_text())
    state["normalizer"] = None
    state["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer, oracle = Tokenizer.load(tmp_path), Core.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("Hello world", "<s>Hello</s> world", "Hello<s>Hello"):
        assert tokenizer.encode_with_specials(text) == oracle.encode(text, add_special_tokens=False).ids


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def test_added_tokens_that_are_not_special_are_no_special_tokens_but_out_of_users_reach(folders, tmp_path):
    core = Core.from_file(str(folders["llama4"] / "tokenizer.json"))
    core.add_tokens([AddedToken("<tool>", normalized=False)])
    core.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    number = core.token_to_id("<tool>")
    assert number not in tokenizer.encode("<tool>")
    assert tokenizer.encode_with_specials("<tool>") == [number]
    assert tokenizer.decode([number]) == "<tool>"
    assert not tokenizer.is_special(number)


def test_tokens_that_only_the_config_names_are_known(folders, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folders["llama4"] / "tokenizer.json").read_bytes())
    size = Tokenizer.load(tmp_path).vocabulary_size
    config = {"added_tokens_decoder": {str(size): {"content": "<|mine|>", "special": True}}, "eos_token": "<|mine|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_ids["<|mine|>"] == size
    assert tokenizer.vocabulary_size == size + 1
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|mine|>")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bos_token": "<nowhere>"}, "bos_token is '<nowhere>'"),
        ({"eos_token": ["x"]}, "eos_token"),
        ({"eos_token": {"content": 7}}, "eos_token"),
        ({"added_tokens_decoder": {"5": {"content": "<|new|>"}}}, "token 5 is"),
        ({"added_tokens_decoder": {"x": {"content": "<|new|>"}}}, "damaged"),
        ({"added_tokens_decoder": {"-1": {"content": "<|new|>"}}}, "token -1"),
        ({"added_tokens_decoder": [1]}, "damaged"),
        ([], "an object was expected"),
    ],
)
def test_a_config_that_contradicts_the_vocabulary_is_refused(folders, tmp_path, config, message):
    (tmp_path / "tokenizer.json").write_bytes((folders["llama4"] / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_a_model_without_begin_token_gets_none(folders, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folders["llama4"] / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.bos_id is None
    assert tokenizer.encode("Hello", bos=True) == tokenizer.encode("Hello")


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "256 of the 256 bytes"),
        (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>", r"tokenizer\.json is expected"),
        (b"YQ== 0\nYg== zero\n", "line 2"),
        (b"Y 0\n", "line 1"),
        (b"YQ== 0\nYg== 5\n", r"ranks 0\.\.1"),
        (b"YQ== 0\nYg== 0\n", r"ranks 0\.\.1"),
        (b"YQ==\xff 0\n", "line 1"),
    ],
)
def test_a_damaged_rank_file_is_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(tmp_path)


def test_a_rank_file_of_unknown_length_needs_a_config(folders, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((folders["llama4-ranks"] / "tokenizer.model").read_bytes())
    with pytest.raises(TokenizerError, match=r"has \d+ ranks"):
        Tokenizer.load(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    Core(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="WordLevel"):
        Tokenizer.load(tmp_path)


def test_a_file_that_makes_the_tokenizers_package_panic_is_refused(folders, tmp_path, capfd):
    content = json.loads((folders["llama2"] / "tokenizer.json").read_text())
    content["model"]["continuing_subword_prefix"] = "longer than any token"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(tmp_path)
    capfd.readouterr()


@pytest.mark.parametrize("config", [{"unk_token": "\ud800"}, {"added_tokens_decoder": {"3": {"content": "\udfff"}}}])
def test_half_a_surrogate_pair_is_no_text(folders, tmp_path, config):
    (tmp_path / "tokenizer.json").write_bytes((folders["llama4"] / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        Tokenizer.load(tmp_path)


def load_or_refuse(folder) -> None:
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer.decode(tokenizer.encode("Hello <|eot|> é\n"))
    except TokenizerError:
        pass


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
def test_damaged_files_are_loaded_or_refused_but_never_crash(folders, tmp_path, name, seed):
    rng = random.Random(seed)
    source = folders["llama4-ranks" if name == "tokenizer.model" else "llama2"]
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (source / name).read_bytes()
    for _ in range(40):
        damaged = bytearray(content[: rng.randrange(len(content))] if rng.random() < 0.3 else content)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged)) if damaged else 0 :][:1] = b""
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / name).write_bytes(bytes(damaged))
        load_or_refuse(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_tokenizer_json_with_wrong_values_never_crashes(folders, tmp_path, seed):
    rng = random.Random(seed)
    content = json.loads((folders["llama2"] / "tokenizer.json").read_text())
    content["added_tokens"] = content["added_tokens"][:3]
    for _ in range(25):
        broken = json.loads(json.dumps(content))
        spot = broken
        while isinstance(spot, dict | list) and len(spot):
            key = rng.choice(list(spot)) if isinstance(spot, dict) else rng.randrange(len(spot))
            if not isinstance(spot[key], dict | list) or rng.random() < 0.3:
                spot[key] = rng.choice([None, -1, 2**40, "x", [], {}, [["a"]], {"type": "ByteLevel"}, True, 1.5])
                break
            spot = spot[key]
        (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
        load_or_refuse(tmp_path)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_ids_equal_those_of_transformers(folders, tokenizers, family):
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(folders[family])
    tokenizer = tokenizers[family]
    for text, *_ in SPLIT_CASES:
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.decode(ids) == oracle.decode(ids, clean_up_tokenization_spaces=False)
    literals = list(tokenizer.special_ids)[:12]
    trusted = "Hello " + "x".join(literals) + " world\n" + literals[0] + literals[1] + " café"
    assert tokenizer.encode_with_specials(trusted) == oracle.encode(trusted, add_special_tokens=False)
