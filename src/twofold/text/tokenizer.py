"""Text to token ids and back.

Text of a user and text of a template are different things: `encode` never yields a special token, whatever the text
says; `encode_with_specials` does, and is for text that was written by the model's author.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from twofold.errors import TokenizerError
from twofold.text.files import Added, find_names, read_added, read_core, read_decoding, read_object
from twofold.text.ranks import BYTE_OF

KEPT_TOKENS = 16384
"""Tokens whose bytes are remembered: working them out takes as long as sending them."""
FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A byte-level (Llama 3, 4) or sentencepiece-style (Llama 2) BPE vocabulary. Immutable and thread-safe.

    special_ids: every special token by its text. literals: those and other added tokens; none of them can be reached
    from `encode`. bos_id: None where the model has no such token. adds_bos: prompts begin with it, unless the model's
    files say that they do not. strips_first_space: decoding drops one space at the very beginning, because encoding
    puts one there. vocabulary_size: the highest id plus one.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        literals: Mapping[str, Added],
        names: Mapping[str, str],
        adds_bos: bool = True,
    ) -> None:
        self.is_byte_level, self.strips_first_space = read_decoding(core)
        self.literals = MappingProxyType(dict(literals))
        self.special_ids: Mapping[str, int] = MappingProxyType(
            {text: added.id for text, added in literals.items() if added.is_special}
        )
        self.names = MappingProxyType(dict(names))
        self.bos_id = self.special_ids.get(self.bos_token)
        self.adds_bos = adds_bos and self.bos_id is not None
        self._text_of = {added.id: text for text, added in literals.items()}
        self._specials = frozenset(self.special_ids.values())
        unknown = core.token_to_id(core.model.unk_token) if core.model.unk_token else None
        self._forbidden = self._specials - {unknown}  # a character the vocabulary lacks is no attempt to forge one
        self._first, self._later = without_literals(core)
        ids = [*core.get_vocab(with_added_tokens=False).values(), *self._text_of]
        self.vocabulary_size = max(ids, default=-1) + 1
        self._pattern = literal_pattern(literals)
        self._shown = lru_cache(KEPT_TOKENS)(self._bytes_to_show)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, else tokenizer.model, with what tokenizer_config.json adds.

        Raises TokenizerError when the files are missing, damaged or contradict each other.
        """
        config = read_object(folder / "tokenizer_config.json")
        return cls.build(read_core(folder), config, read_object(folder / "special_tokens_map.json"))

    @classmethod
    def build(cls, core: tokenizers.Tokenizer, *configs: Mapping[str, Any]) -> Tokenizer:
        """A BPE with what tokenizer_config.json says, and then special_tokens_map.json. Raises TokenizerError."""
        literals, names = find_names(read_added(core, configs[0]), core, configs)
        return cls(core, literals, names, adds_bos=configs[0].get("add_bos_token") is not False)

    @property
    def bos_token(self) -> str:
        """Text of the token that begins every prompt; empty where there is none."""
        return self.names.get("bos_token", "")

    @property
    def eos_token(self) -> str:
        """Text of the token that the tokenizer's files call the end; empty where there is none."""
        return self.names.get("eos_token", "")

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Ids of a text in which nothing is special; `bos` puts the begin token first."""
        begin = [self.bos_id] if bos and self.adds_bos and self.bos_id is not None else []
        return begin + self._encode_plain(text, is_first=True)

    def encode_with_specials(self, text: str) -> list[int]:
        """Ids of trusted text: the literals of special and other added tokens become those tokens."""
        return self.encode_parts(self.split(text))

    def split(self, text: str) -> Iterator[str | int]:
        """Cut a trusted text into plain stretches and the ids of the added tokens between them."""
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > start:
                yield text[start : match.start()]
            literal = match.group()
            yield self.literals[literal if literal in self.literals else literal.strip()].id
            start = match.end()
        if start < len(text):
            yield text[start:]

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """Ids of what `split` returned: plain stretches encoded like `encode`, ids as they are."""
        ids: list[int] = []
        for index, part in enumerate(parts):
            ids += [part] if isinstance(part, int) else self._encode_plain(part, is_first=index == 0)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids. Bytes that are no UTF-8 become U+FFFD, unknown ids nothing (or <|reserved_N|>)."""
        data = b"".join([self.shown_bytes(token, skip_special=skip_special) for token in ids])
        text = data.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.strips_first_space else text

    def is_special(self, token: int) -> bool:
        """Whether a token steers the conversation and is not text; so are ids that no file names."""
        return token in self._specials or self._spelling(token) is None

    def shown_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """What a token adds to the decoded text."""
        return self._shown(token, skip_special)

    def _bytes_to_show(self, token: int, skip_special: bool) -> bytes:
        if self.is_special(token):
            return b"" if skip_special else self.token_bytes(token) or f"<|reserved_{token}|>".encode()
        return self.token_bytes(token)

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes of a token, of a special one those of its literal; empty for an unknown id."""
        spelling = self._spelling(token)
        if spelling is None or token in self._text_of:
            return (spelling or "").encode()
        if self.is_byte_level:
            try:
                return bytes([BYTE_OF[character] for character in spelling])
            except KeyError:  # written in no byte alphabet: `tokenizers` takes such a token as it stands
                return spelling.encode()
        match = FALLBACK_BYTE.fullmatch(spelling)
        return bytes([int(match[1], 16)]) if match else spelling.replace("\u2581", " ").encode()

    def _spelling(self, token: int) -> str | None:
        if token in self._text_of:
            return self._text_of[token]
        if not 0 <= token < self.vocabulary_size:
            return None
        return self._first.id_to_token(token)

    def _encode_plain(self, text: str, *, is_first: bool) -> list[int]:
        if not text.isascii():  # a lone surrogate (half of a pair, from broken JSON) has no UTF-8
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids: list[int] = (self._first if is_first else self._later).encode(text, add_special_tokens=False).ids
        return (
            ids if self._forbidden.isdisjoint(ids) else [piece for token in ids for piece in self._spelled_out(token)]
        )

    def _spelled_out(self, token: int) -> list[int]:
        """A vocabulary may hold a special token as an ordinary word too: write that word in single characters."""
        if token not in self._forbidden:
            return [token]
        text = self._text_of[token]
        encoded = [self._later.encode(character, add_special_tokens=False).ids for character in text]
        pieces = [piece for ids in encoded for piece in ids]
        if not self._forbidden.isdisjoint(pieces):
            raise TokenizerError(
                f"the special token {text!r} ({token}) cannot be written without special tokens, so users could forge "
                "it. Use another tokenizer.json."
            )
        return pieces


def check_vocabulary(tokenizer: Tokenizer, vocabulary_size: int) -> None:
    """Raise TokenizerError when the tokenizer has ids that the model's embedding does not."""
    if tokenizer.vocabulary_size > vocabulary_size:
        raise TokenizerError(
            f"the tokenizer does not match the model: its ids go up to {tokenizer.vocabulary_size - 1}, the model's "
            f"vocabulary has {vocabulary_size} rows. Use the tokenizer files that came with these weights."
        )


def check_same_tokens(main: Tokenizer, draft: Tokenizer, name: str) -> None:
    """Raise TokenizerError unless every id means the same token in both; `name` is what the draft model is called."""
    for token in range(max(main.vocabulary_size, draft.vocabulary_size)):
        ours, theirs = ((tokenizer.token_bytes(token), tokenizer.is_special(token)) for tokenizer in (main, draft))
        if ours != theirs:
            raise TokenizerError(
                f"the draft model {name} has another vocabulary: token {token} is {theirs[0]!r} there and {ours[0]!r} "
                "in the model. Choose a draft model of the same family."
            )


def without_literals(core: tokenizers.Tokenizer) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
    """The same model without added tokens, truncation, padding and post-processor: for the first stretch, and later.

    They differ only where the pre-tokenizer puts a space before the first word of a whole text.
    """
    first, later = tokenizers.Tokenizer(core.model), tokenizers.Tokenizer(core.model)
    for tokenizer in (first, later):
        if core.normalizer is not None:
            tokenizer.normalizer = core.normalizer
        if core.pre_tokenizer is not None:
            tokenizer.pre_tokenizer = core.pre_tokenizer
    if getattr(core.pre_tokenizer, "prepend_scheme", None) == "first":
        later.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=core.pre_tokenizer.split)
    return first, later


def literal_pattern(literals: Mapping[str, Added]) -> re.Pattern[str] | None:
    """Leftmost literal, the longest where several begin together: the rule of `tokenizers`."""
    if not literals:
        return None
    space = {False: "", True: r"\s*"}
    longest_first = sorted(literals.items(), key=lambda item: -len(item[0]))
    return re.compile(
        "|".join(space[added.lstrip] + re.escape(text) + space[added.rstrip] for text, added in longest_first)
    )
