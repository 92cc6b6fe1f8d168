"""Small tokenizers in the shape of the real ones, trained on the spot."""

import base64
import json
import random
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Core

from twofold.text.ranks import BYTE_OF, LLAMA3_SPLIT, LLAMA4_SPLIT, build
from twofold.text.tokenizer import Tokenizer

TEXT = (
    "Hello, world! system user assistant ipython The capital of France is Paris. I'm HelloWorld camelCase they'll "
    "def f(x):\n    return x**2\n https://a.b/c//d café naïve 你好，世界 12345678 number of parameters header_start "
)


def corpus() -> list[str]:
    rng = random.Random(5)
    return [" ".join(rng.choices(TEXT.split(" "), k=12)) for _ in range(300)]


def train_ranks(split: str) -> dict[bytes, int]:
    """Byte tokens first, then merges in the order they were learnt."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return {bytes(BYTE_OF[mark] for mark in token): rank for token, rank in core.get_vocab().items()}


def write_ranks(path: Path, ranks: dict[bytes, int]) -> None:
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered))


def sentencepiece_style() -> Core:
    """Like the tokenizer.json of Llama 2: no pre-tokenizer, U+2581 for spaces, byte fallback."""
    learner = Core(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    ascii_corpus = [text.encode("ascii", "ignore").decode() for text in corpus()]
    learner.train_from_iterator(ascii_corpus, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    state = json.loads(learner.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: index for index, token in enumerate([*first, *state["vocab"]])}
    merges = [tuple(pair) for pair in state["merges"]]
    core = Core(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = learner.normalizer
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return core


@pytest.fixture(scope="session")
def llama4_ranks() -> dict[bytes, int]:
    return train_ranks(LLAMA4_SPLIT)


@pytest.fixture(scope="session")
def llama3_ranks() -> dict[bytes, int]:
    return train_ranks(LLAMA3_SPLIT)


def save(folder: Path, core: Core, **config: object) -> Path:
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory, llama4_ranks, llama3_ranks) -> dict[str, Path]:
    """Model folders by family; llama4-ranks and llama3-ranks hold tokenizer.model."""
    make = tmp_path_factory.mktemp
    specific = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>"}
    found = {
        "llama4": save(make("llama4"), build(llama4_ranks, "llama4"), eos_token="<|eot|>", **specific),
        "llama3": save(make("llama3"), build(llama3_ranks, "llama3"), eos_token="<|eot_id|>", **specific),
        "llama2": save(
            make("llama2"),
            sentencepiece_style(),
            tokenizer_class="PreTrainedTokenizerFast",
            bos_token={"__type": "AddedToken", "content": "<s>"},
            eos_token="</s>",
            unk_token="<unk>",
        ),
    }
    for name, ranks, model_type in (("llama4", llama4_ranks, "llama4"), ("llama3", llama3_ranks, "llama")):
        folder = found[f"{name}-ranks"] = make(f"{name}-ranks")
        write_ranks(folder / "tokenizer.model", ranks)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return found


@pytest.fixture(scope="session")
def tokenizers(folders) -> dict[str, Tokenizer]:
    return {name: Tokenizer.load(folder) for name, folder in folders.items()}


@pytest.fixture(params=["llama4", "llama3", "llama2"])
def family(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(tokenizers, family) -> Tokenizer:
    return tokenizers[family]
