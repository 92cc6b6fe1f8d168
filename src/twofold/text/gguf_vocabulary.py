"""The tokenizer in a GGUF file's metadata: the same as tokenizer.json, tokenizer_config.json and the chat template.

`tokenizer.ggml.model` "gpt2" is a byte-level BPE with merges (Llama 3 and 4, told apart by `tokenizer.ggml.pre`);
"llama" is a sentencepiece vocabulary with scores (Llama 2), whose merges follow from them.
Sources: llama.cpp, conversion/base.py and src/llama-vocab.cpp; transformers, convert_slow_tokenizer.py (merges from
scores); tokenizer.json of Llama 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from twofold.errors import TokenizerError
from twofold.text.ranks import build_byte_level

KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
FAMILY_OF_PRE = {
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "llama4": "llama4",
    "gpt-4o": "llama4",
}
"""How texts are split; llama.cpp uses one pattern for Llama 4 and GPT-4o."""
LITERALS = (CONTROL, UNKNOWN, USER_DEFINED)
MOST_RUNS = 16
"""Stretches of special and other literals that are added one after the other; each costs a pass over all of them."""
NAME_OF_ID = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "padding_token_id": "pad_token",
    "unknown_token_id": "unk_token",
}
ENDS = ("<|end_of_text|>", "<|eom|>", "<|eot|>", "<|eom_id|>", "<|eot_id|>")
"""Control tokens that end an answer whether or not a key says so, as the models' generation_config.json has them."""
SPACE, UNKNOWN_TEXT = "\u2581", "<unk>"
MOST_CHARACTERS = 512
"""Longest sentencepiece token: the work to find its merges grows with the square of its length."""
AGAIN = "Convert the model again with a current llama.cpp, or use its safetensors release."


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens by their ids, what kind each is, and its score (empty for byte-level vocabularies)."""

    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]

    def of(self, *types: int) -> Iterator[tuple[str, int]]:
        """Tokens of these types with their ids, in order."""
        return ((text, index) for index, text in enumerate(self.tokens) if self.types[index] in types)


def read_gguf_tokenizer(metadata: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a GGUF file and what tokenizer_config.json says beside it, the chat template included.

    Raises TokenizerError for a vocabulary that is missing, damaged or of another kind.
    """
    model = metadata.get(f"{KEY}model")
    if model not in ("gpt2", "llama"):
        raise TokenizerError(
            f"GGUF key '{KEY}model' is {brief(model)}; 'gpt2' (Llama 3, 4) and 'llama' (Llama 2) can be read. {AGAIN}"
        )
    vocabulary = read_vocabulary(metadata, needs_scores=model == "llama")
    core = byte_level(metadata, vocabulary) if model == "gpt2" else sentencepiece(metadata, vocabulary)
    return core, {**names_of(metadata, vocabulary), **templates_of(metadata)}


def read_vocabulary(metadata: Mapping[str, Any], needs_scores: bool) -> Vocabulary:
    """Tokens, types and scores, checked."""
    tokens = read_list(metadata, "tokens", str)
    types = read_list(metadata, "token_type", int)
    scores = read_list(metadata, "scores", float) if needs_scores else []
    for name, found in (("token_type", types), *([("scores", scores)] if needs_scores else [])):
        if len(found) != len(tokens):
            raise TokenizerError(f"GGUF key '{KEY}{name}' has {len(found)} entries for {len(tokens)} tokens. {AGAIN}")
    if any(not NORMAL <= kind <= BYTE for kind in types):
        raise TokenizerError(f"GGUF key '{KEY}token_type' holds other types than 1 to 6. {AGAIN}")
    if any(score != score for score in scores):
        raise TokenizerError(f"GGUF key '{KEY}scores' holds values that are no numbers. {AGAIN}")
    vocabulary = Vocabulary(tokens=tokens, types=types, scores=scores)
    seen: dict[str, int] = {}
    for text, index in vocabulary.of(NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE):
        if text in seen or not text:
            there = f"token {seen[text]} too" if text in seen else "empty"
            raise TokenizerError(f"GGUF key '{KEY}tokens': token {index} is {brief(text)}, which is {there}. {AGAIN}")
        seen[text] = index
    return vocabulary


def brief(value: object) -> str:
    """A value as it is shown in a message."""
    return repr(value[:60] if isinstance(value, str | list) else value)[:300]


def read_list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """A list of one kind of values."""
    found = metadata.get(KEY + name)
    if not isinstance(found, list) or not found or type(found[0]) is not kind:
        what = "missing" if found is None else "no list of that kind"
        raise TokenizerError(f"GGUF key '{KEY}{name}' is {what}; one {kind.__name__} per token was expected. {AGAIN}")
    return found


def byte_level(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """The BPE of a Llama 3 or 4."""
    pre = metadata.get(f"{KEY}pre")
    if pre not in FAMILY_OF_PRE:
        raise TokenizerError(
            f"GGUF key '{KEY}pre' is {brief(pre)}; {', '.join(FAMILY_OF_PRE)} can be read. Without it nobody knows how "
            f"texts are split. {AGAIN}"
        )
    ordinary, added = dict(vocabulary.of(NORMAL, BYTE)), dict(vocabulary.of(*LITERALS))
    follow = list(added.values()) == list(range(len(ordinary), len(ordinary) + len(added)))
    if not follow or len(list(runs(vocabulary))) > MOST_RUNS:
        ordinary |= added  # ids that do not simply follow are only kept by a place in the vocabulary itself
    merges = list(read_merges(metadata, ordinary))
    core = build_byte_level(ordinary, merges, FAMILY_OF_PRE[pre])
    add_literals(core, vocabulary)
    return core


def read_merges(metadata: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Pairs to join, the first of them first; all three tokens of a merge are in the vocabulary."""
    for index, merge in enumerate(read_list(metadata, "merges", str)):
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise TokenizerError(
                f"GGUF key '{KEY}merges': number {index} is {brief(merge)}; two tokens with a space between were "
                f"expected, which join to a third. {AGAIN}"
            )
        yield left, right


def sentencepiece(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """The BPE of a Llama 2, built as its tokenizer.json is."""
    tokens = dict(vocabulary.of(NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE))
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if missing:
        raise TokenizerError(
            f"GGUF key '{KEY}tokens' lacks {len(missing)} of the 256 byte tokens <0x00> to <0xFF>, so some texts could "
            f"not be written. {AGAIN}"
        )
    unknown = next((text for text, _ in vocabulary.of(UNKNOWN)), UNKNOWN_TEXT if UNKNOWN_TEXT in tokens else None)
    merges = merges_of_scores(vocabulary)
    core = tokenizers.Tokenizer(models.BPE(tokens, merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    prefixed = metadata.get(f"{KEY}add_space_prefix") is not False
    spaces = normalizers.Replace(" ", SPACE)
    core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces] if prefixed else [spaces])
    strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    add_literals(core, vocabulary)
    return core


def merges_of_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, the third with the highest score first, then the longer left half.

    Files made without the sentencepiece model have one and the same score everywhere. Then ids decide: sentencepiece
    numbers its pieces in the order in which it has learnt them.
    """
    normal = dict(vocabulary.of(NORMAL))
    told_apart = len({vocabulary.scores[index] for index in normal.values()}) > 1
    found: list[tuple[float, int, str, str]] = []
    for text, index in normal.items():
        if len(text) > MOST_CHARACTERS:
            raise TokenizerError(f"GGUF key '{KEY}tokens': token {index} has {len(text)} characters; at most "
                                 f"{MOST_CHARACTERS} were expected. {AGAIN}")  # fmt: skip
        rank = -vocabulary.scores[index] if told_apart else index
        for cut in range(len(text) - 1, 0, -1):
            left, right = text[:cut], text[cut:]
            if left in normal and right in normal:
                found.append((rank, -cut, left, right))
    return [(left, right) for _, _, left, right in sorted(found, key=lambda merge: merge[:2])]


def runs(vocabulary: Vocabulary) -> Iterator[tuple[bool, list[str]]]:
    """Tokens that are matched as literals, in the order of their ids: whether they are special, and which."""
    for is_special, group in groupby(vocabulary.of(*LITERALS), lambda item: vocabulary.types[item[1]] != USER_DEFINED):
        yield is_special, [text for text, _ in group]


def add_literals(core: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Make control tokens special and those of users literals. Tokens get the next ids where they have none."""
    found = list(runs(vocabulary))
    if len(found) > MOST_RUNS:
        found = [
            (kind, [text for is_special, run in found if is_special == kind for text in run]) for kind in (True, False)
        ]
    for is_special, texts in found:
        add = core.add_special_tokens if is_special else core.add_tokens
        add([AddedToken(text, special=is_special, normalized=False) for text in texts])


def names_of(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """bos_token, eos_token and so on by their texts, and whether prompts begin with the former.

    A pad or unk token that is an ordinary word (converters write 0 where nobody has said which) has no name.
    """
    names: dict[str, Any] = {}
    for key, name in NAME_OF_ID.items():
        if KEY + key not in metadata:
            continue
        token = read_id(metadata, key, len(vocabulary.tokens))
        if name in ("bos_token", "eos_token") or vocabulary.types[token] in LITERALS:
            names[name] = vocabulary.tokens[token]
    adds_bos = metadata.get(f"{KEY}add_bos_token")
    return names if adds_bos is None else {**names, "add_bos_token": bool(adds_bos)}


def read_id(metadata: Mapping[str, Any], name: str, count: int) -> int:
    """The id of a token."""
    value = metadata[KEY + name]
    if type(value) is not int or not 0 <= value < count:
        raise TokenizerError(f"GGUF key '{KEY}{name}' is {brief(value)}; an id below {count} was expected. {AGAIN}")
    return value


def templates_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """chat_template as tokenizer_config.json has it: a text, or a list of named ones. Empty where there is none."""
    found = {"default": metadata[TEMPLATE]} if TEMPLATE in metadata else {}
    found |= {key[len(TEMPLATE) + 1 :]: value for key, value in metadata.items() if key.startswith(f"{TEMPLATE}.")}
    if not found:
        return {}
    if not all(isinstance(text, str) for text in found.values()):
        raise TokenizerError(f"GGUF key '{TEMPLATE}' is no text. {AGAIN}")
    if list(found) == ["default"]:
        return {"chat_template": found["default"]}
    return {"chat_template": [{"name": name, "template": text} for name, text in found.items()]}


def end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Ids that end an answer: those the keys name, and control tokens that are spelled like an end."""
    tokens, types = metadata.get(f"{KEY}tokens"), metadata.get(f"{KEY}token_type")
    if not isinstance(tokens, list) or not isinstance(types, list):
        return []
    named = [f"{end}_token_id" for end in ("eos", "eot", "eom") if f"{KEY}{end}_token_id" in metadata]
    found = {read_id(metadata, name, len(tokens)) for name in named}
    found |= {
        index for index, (text, kind) in enumerate(zip(tokens, types, strict=False)) if text in ENDS and kind == CONTROL
    }
    return sorted(found)
