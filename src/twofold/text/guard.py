"""Keeps the text of users from becoming special tokens on its way through a template.

A template sees the user's strings with a marker, one private-use character that occurs nowhere else, put into
everything a special token could be made of:
- after each character a literal begins with ("<" for Llama), so that no literal begins in such a string, whatever the
  template joins, trims, cuts or lowers. Left alone are the template's own constants that begin so and are no part of a
  literal: a template that looks for "</think>" in an answer still finds it;
- after the first character of a string that could be the rest of a literal begun by the template or another string.
After rendering, the literals in the text are the template's own; the markers are taken out of all other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from twofold.errors import TemplateError

CONSTANT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
WORDS = frozenset({
    "role", "content", "tool_calls", "tool_call_id", "name", "type", "id", "function", "arguments", "parameters",
    "properties", "required", "description", "enum", "items", "default", "system", "user", "assistant", "tool",
    "ipython", "text", "object", "string", "number", "integer", "boolean", "array", "null",
})  # fmt: skip
"""What templates compare with and look up; never marked, for the sake of specials like <|system|>."""
PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Guard:
    """Marks strings before rendering and cleans the text after it; made for one rendering.

    literals: texts of all added tokens. source: the template. strings: every string the template will see.
    """

    def __init__(self, literals: Iterable[str], source: str, strings: Iterable[str]) -> None:
        ordered = tuple(literals)
        self.marker = free_character([source, *strings])
        self._rests = rests_of(ordered)
        self._pattern = beginnings(ordered, source)

    def mark(self, text: str) -> str:
        """The text with markers; `clean` undoes it."""
        if self._pattern is None or not text or text in WORDS:
            return text
        marked = self._pattern.sub(lambda match: match[1] + self.marker if match[1] else match[0], text)
        core = text.lstrip()
        if not self._may_continue(core.rstrip()):
            return marked
        first = len(text) - len(core) + 1  # a marker already there does no harm twice
        return marked[:first] + self.marker + marked[first:]

    def clean(self, text: str) -> str:
        """The text without markers, also where a template wrote them as a JSON escape."""
        if self.marker not in text and "\\u" not in text:
            return text
        return text.replace(self.marker, "").replace(escaped(self.marker), "")

    def _may_continue(self, core: str) -> bool:
        rests = self._rests
        return core != "" and (core in rests.joined or any(core[:size] in rests.ends for size in rests.sizes))


@dataclass(frozen=True, kw_only=True)
class Rests:
    """What follows the beginning of a literal: all of it in one string, every possible end, and their lengths."""

    joined: str
    ends: frozenset[str]
    sizes: range


@lru_cache(maxsize=8)
def rests_of(literals: tuple[str, ...]) -> Rests:
    """Rests of all literals; kept, because 2048 of them take 20 ms."""
    ends = frozenset(text[cut:] for text in literals for cut in range(1, len(text)))
    longest = max(map(len, literals), default=0)
    return Rests(joined="\0".join(text[1:] for text in literals), ends=ends, sizes=range(1, longest))


@lru_cache(maxsize=32)
def beginnings(literals: tuple[str, ...], source: str) -> re.Pattern[str] | None:
    """Finds characters that begin a literal (group 1), and constants of the template that only look so (no group)."""
    firsts = {text[:1] for text in literals}
    if not firsts:
        return None
    constants = {_unescaped(match[1] or match[2] or "") for match in CONSTANT.finditer(source)}
    harmless = [
        text
        for text in constants
        if len(text) > 1
        and text[0] in firsts
        and not any(literal.startswith(text) or text.startswith(literal) for literal in literals)
        and not any(first in text[1:] for first in firsts)
    ]
    spared = "|".join(map(re.escape, sorted(harmless, key=len, reverse=True)))
    marked = "([" + "".join(map(re.escape, sorted(firsts))) + "])"
    return re.compile(f"(?:{spared})|{marked}" if spared else marked)


def free_character(texts: list[str]) -> str:
    """A private-use character that occurs in none of the texts, neither as itself nor as a JSON escape."""
    used = set().union(*texts)
    has_escapes = any("\\u" in text for text in texts)
    for code in (code for plane in PRIVATE_USE for code in plane):
        character = chr(code)
        if character not in used and not (has_escapes and any(escaped(character) in text for text in texts)):
            return character
    raise TemplateError(
        "the messages use every private-use character of Unicode; one must be free. Remove some of them."
    )


def escaped(character: str) -> str:
    """The character as a JSON escape, the way json.dumps writes it."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def strings_in(value: Any) -> Iterator[str]:
    """Every string of a JSON-like value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings_in(key)
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON-like value with every string changed, keys included; plain types only.

    Raises TypeError for anything that is no JSON: a template must not get hold of objects with methods of their own.
    """
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return change(str(value))
    if isinstance(value, Mapping):
        return {mapped(key, change): mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(item, change) for item in value]
    raise TypeError(f"a {type(value).__name__}, which is no JSON value")


def _unescaped(constant: str) -> str:
    simple = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: simple.get(match[1], match[1]), constant, flags=re.DOTALL)
