"""Splits a command line into words as a shell does, and remembers where each stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

GAP = re.compile(r"(?:[ \t]|\\\r?\n)*")
PIECE = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\$\([^()\n]*\)|\$\{[^}\n]*\}|\\[^\r\n]|[^\s'"\\;|&<>()`]""", re.DOTALL)
ITEM = re.compile(r""""((?:\\.|[^"\\\n])*)"|'((?:\\.|[^'\\\n])*)'|([^\s,\[\]"'(){}]+)""")


@dataclass(frozen=True)
class Word:
    """A word without its quotes; start and end are where it stands with them."""

    text: str
    start: int
    end: int


def shell_words(text: str, start: int, end: int) -> list[Word]:
    """The words of one command: up to the line's end (a backslash goes on), a sign of the shell or an open quote."""
    words: list[Word] = []
    place = start
    while True:
        gap = GAP.match(text, place, end)
        place = gap.end() if gap else place
        word, parts = place, []
        while piece := PIECE.match(text, place, end):
            parts.append(unquoted(piece[0]))
            place = piece.end()
        if not parts or "".join(parts).startswith("#"):
            return words
        words.append(Word("".join(parts), word, place))


def unquoted(piece: str) -> str:
    """A piece of a word without its quotes; variables stay as they are."""
    if piece[0] == "'":
        return piece[1:-1]
    if piece[0] == '"':
        return re.sub(r'\\(["\\$`])', r"\1", piece[1:-1])
    return piece[1:] if piece[0] == "\\" else piece


def list_words(text: str, start: int, end: int) -> list[Word]:
    """The items of a list written in JSON, YAML or a programming language, flat; dashes of YAML are no items."""
    words = []
    for match in ITEM.finditer(text, start, end):
        group = next(index for index in (1, 2, 3) if match[index] is not None)
        if match[group] not in ("-", ">", "|", ">-", "|-", "\\"):
            words.append(Word(match[group], match.start(), match.end()))
    return words
