"""Strings and comments of JavaScript and TypeScript, as far as a lexer without a grammar can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

LITERAL = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)"""
    r"""|(?P<slash>/)""",
    re.DOTALL,
)
PATTERN = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*")
BEFORE_PATTERN = re.compile(r"(?:^|[(,=:\[!&|?{};+\-*%~^<>]|\b(?:return|typeof|case|in|of|do|else))\s*\Z")


def javascript_stretches(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start, end and whether it is a comment, of every string, regular expression and comment.

    A template literal is one string with its expressions. A slash begins a regular expression where no value stands
    before it.
    """
    place = 0
    while match := LITERAL.search(text, place):
        place = match.end()
        if match["slash"] is None:
            yield match.start(), match.end(), match["comment"] is not None
        elif BEFORE_PATTERN.search(text, max(0, match.start() - 40), match.start()):
            pattern = PATTERN.match(text, match.start())
            if pattern:
                place = pattern.end()
                yield pattern.start(), pattern.end(), False
