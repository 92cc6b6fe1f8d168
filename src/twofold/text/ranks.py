"""Meta's own vocabulary files (tokenizer.model, lines of "base64 rank") as a `tokenizers` BPE.

Byte alphabet: every byte is written as one printable character, as GPT-2 began and tokenizer.json files still do.
Sources: llama-models, models/llama4/tokenizer.py and models/llama3/tokenizer.py (patterns, special tokens);
transformers, convert_slow_tokenizer.py, TikTokenConverter (merges from ranks).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from twofold.errors import TokenizerError

LLAMA4_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: Mapping[str, str] = {"llama4": LLAMA4_SPLIT, "llama3": LLAMA3_SPLIT}
FAMILY_OF_RANKS = {200_000: "llama4", 128_000: "llama3"}


def _byte_alphabet() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(stand_ins)) for byte in range(256))


CHARACTER_OF = _byte_alphabet()
"""The character that stands for each byte."""
BYTE_OF: Mapping[str, int] = {character: byte for byte, character in enumerate(CHARACTER_OF)}


def _reserved(kind: str, first: int, count: int) -> list[str]:
    return [f"{kind}reserved_special_token_{index}" for index in range(first, first + count)]


def llama4_specials() -> list[str]:
    """The 2048 special tokens of Llama 4 in the order of their ids."""
    names = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"]
    names += ["header_start", "header_end", "eom", "eot", "step", *_reserved("text_post_train_", 0, 6)]
    names += ["python_start", "python_end", "finetune_right_pad", *_reserved("text_post_train_", 8, 61)]
    names += ["image_start", "image_end", *_reserved("vision_", 0, 2), "tile_x_separator", "tile_y_separator"]
    names += [*_reserved("vision_", 2, 4), "image", *_reserved("vision_", 6, 1), "patch"]
    names += [*_reserved("vision_", 7, 1041), *_reserved("reasoning_", 0, 8)]
    names += ["reasoning_thinking_start", "reasoning_thinking_end", *_reserved("", 0, 904)]
    return [f"<|{name}|>" for name in names]


def llama3_specials() -> list[str]:
    """The 256 special tokens of Llama 3 in the order of their ids."""
    names = ["begin_of_text", "end_of_text", *_reserved("", 0, 2), "finetune_right_pad_id", "step_id"]
    names += ["start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag", "image", *_reserved("", 2, 244)]
    return [f"<|{name}|>" for name in names]


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes to rank. Raises TokenizerError unless ranks are 0..n-1 and every byte has one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path.name} cannot be read: {error}") from error
    if content[:1] == b"\n" and b"<unk>" in content[:64]:
        raise TokenizerError(
            f"{path.name} is a sentencepiece model (Llama 2); tokenizer.json is expected beside it. Copy that file "
            "from the model's Hugging Face repository, or write it once with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f'{path.name} line {number} is {line[:40]!r}; "base64 rank" was expected. Download the file again.'
            ) from error
    _check_ranks(path.name, ranks)
    return ranks


def _check_ranks(name: str, ranks: Mapping[bytes, int]) -> None:
    if sorted(ranks.values()) != list(range(len(ranks))) or b"" in ranks:
        raise TokenizerError(
            f"{name}: the {len(ranks)} tokens do not have the ranks 0..{len(ranks) - 1}, each once. "
            "Download the file again."
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{name}: {len(missing)} of the 256 bytes have no token (first: {missing[0]:#04x}), so some texts could "
            "not be written. Download the file again."
        )


def family_of(ranks: Mapping[bytes, int], config: Mapping[str, Any]) -> str:
    """Which Llama a rank file belongs to: by its length, else by model_type in config.json."""
    if len(ranks) in FAMILY_OF_RANKS:
        return FAMILY_OF_RANKS[len(ranks)]
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type.startswith("llama"):
        return "llama4" if model_type.startswith("llama4") else "llama3"
    raise TokenizerError(
        f"tokenizer.model has {len(ranks)} ranks and config.json says model_type {model_type!r}; 200000 (Llama 4) or "
        "128000 (Llama 3) were expected. Put the model's tokenizer.json into the folder."
    )


def build(ranks: Mapping[bytes, int], family: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of these ranks with the family's pattern and special tokens (ids from len(ranks) on)."""
    tokenizer = build_byte_level({_spell(token): rank for token, rank in ranks.items()}, _merges(ranks), family)
    specials = llama4_specials() if family == "llama4" else llama3_specials()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return tokenizer


def build_byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]], family: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of tokens in the byte alphabet with the family's pattern and without special tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLITS[family]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _spell(token: bytes) -> str:
    return "".join([CHARACTER_OF[byte] for byte in token])


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, lowest rank of the third first."""
    merges: list[tuple[int, int, int, bytes, bytes]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], left, right))
    return [(_spell(left), _spell(right)) for *_, left, right in sorted(merges)]
