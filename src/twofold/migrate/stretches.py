"""Which parts of a file are text that a program uses, which are code, and which only speak to people."""

from __future__ import annotations

import ast
import bisect
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from twofold.migrate.javascript import javascript_stretches

Role = Literal["string", "code", "comment", "text"]
"""comment: documentation strings of Python too. text: files that are not split into strings and code."""
STARTS_OF_STATEMENTS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
HASH = re.compile(r"(?m)(?:^|(?<=[ \t]))#[^\n]*")
JINJA = re.compile(r"\{#.*?#\}", re.DOTALL)
SEMICOLON = re.compile(r"(?m)^[ \t]*[#;][^\n]*")
LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


@dataclass(frozen=True)
class Stretch:
    """Characters start to end of a file."""

    start: int
    end: int
    role: Role


class Stretches:
    """The stretches of one file, in order and without gaps. is_parsed: whether the file is what its name says."""

    def __init__(self, text: str, parts: list[Stretch], rest: Role, is_parsed: bool = True) -> None:
        self.is_parsed = is_parsed
        self.parts: list[Stretch] = []
        done = 0
        for part in [*parts, Stretch(len(text), len(text), rest)]:
            if part.start > done:
                self.parts.append(Stretch(done, part.start, rest))
            if part.end > part.start:
                self.parts.append(part)
            done = part.end
        self._starts = [part.start for part in self.parts]

    def at(self, place: int) -> Stretch:
        """The stretch a character lies in."""
        return self.parts[max(bisect.bisect_right(self._starts, place) - 1, 0)]


def stretches(text: str, kind: str) -> Stretches:
    """Split a file by its kind. One that cannot be parsed is text as a whole and says so."""
    if kind == "python":
        try:
            ast.parse(text)
            return Stretches(text, list(python_stretches(text)), "code")
        except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
            return Stretches(text, [], "text", is_parsed=False)
    if kind == "javascript":
        parts = [Stretch(start, end, "comment" if is_comment else "string")
                 for start, end, is_comment in javascript_stretches(text)]  # fmt: skip
        return Stretches(text, parts, "code")
    pattern = {"jinja": JINJA, "settings": SEMICOLON, "json": None, "notebook": None}.get(kind, HASH)
    found = pattern.finditer(text) if pattern else ()
    return Stretches(text, [Stretch(match.start(), match.end(), "comment") for match in found], "text")


def python_stretches(text: str) -> Iterator[Stretch]:
    """Comments and strings of Python; a string that is a statement is documentation."""
    offset = offsets(text)
    tokens = [
        token for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline) if token.type != tokenize.NL
    ]
    previous, depth, start = tokenize.ENCODING, 0, 0
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        name = tokenize.tok_name[token.type]
        if name == "COMMENT":
            yield Stretch(offset(*token.start), offset(*token.end), "comment")
            continue
        if name == "STRING" and not depth:
            is_statement = previous in STARTS_OF_STATEMENTS and following.type in (tokenize.NEWLINE, tokenize.COMMENT)
            yield Stretch(offset(*token.start), offset(*token.end), "comment" if is_statement else "string")
        elif name == "FSTRING_START":  # from Python 3.12 on; before, the whole is one STRING
            start, depth = (start if depth else offset(*token.start)), depth + 1
        elif name == "FSTRING_END":
            depth -= 1
            if not depth:
                yield Stretch(start, offset(*token.end), "string")
        previous = token.type


def offsets(text: str) -> Callable[[int, int], int]:
    """A function from Python's line (from 1) and column in characters to a place in the text."""
    starts = [match.start() for match in LINES.finditer(text)]
    starts.append(len(text))

    def offset(line: int, column: int) -> int:
        return min(starts[min(line - 1, len(starts) - 1)] + column, len(text))

    return offset
