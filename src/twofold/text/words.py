"""Texts as the token sequences they may come in."""

from __future__ import annotations

from collections.abc import Iterable

from twofold.text.tokenizer import Tokenizer


def spellings(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text inside other text, as it is and with a space before it; each sequence once.

    A text can be cut into tokens in other ways too; these two are how a tokenizer would write it.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip(" ")):
            ids = tokenizer.encode_parts([0, text])[1:]  # after another token, so that nothing is put before it
            found.update({tuple(ids): None} if ids else {})
    return tuple(found)
