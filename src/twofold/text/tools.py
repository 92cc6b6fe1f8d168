"""Finds tool calls in an answer while it grows, and gives everything else through as text.

Forms: {"name": "f", "parameters": {...}} (Llama 3 and 4; also with "arguments", with "type": "function" before it,
nested in "function", in a list, several in a row), [f(x=1), g(y="z")] (Llama 4, pythonic) and
<function=f>{...}</function> (Llama 3). Text may stand before a call. Only names of tools that were offered count: any
other JSON is text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

NAME = r'(?P<name>[^"\\<>]{1,64})'
PYTHONIC_LIMIT = 8_000
"""Characters of a pythonic call list that are looked at: it can be read only as a whole."""


@dataclass(frozen=True)
class Said:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call of a tool; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the arguments of the latest call: JSON text, to be joined."""

    index: int
    text: str


Part = Said | CallBegun | CallArguments


@dataclass(frozen=True)
class Form:
    """How a call begins, up to its arguments, and what closes it after them. `begun` matches every prefix of `head`."""

    head: re.Pattern[str]
    begun: re.Pattern[str]
    closing: str


def form(pieces: list[str], closing: str) -> Form:
    """A form from the regular expressions of its pieces, in order."""
    begun = ""
    for piece in reversed(pieces):
        begun = f"{piece}(?:{begun})?" if begun else piece
    return Form(re.compile("".join(pieces)), re.compile(f"(?:{begun})\\Z"), closing)


def letters(text: str) -> list[str]:
    """A regular expression per character; white space may follow punctuation of JSON."""
    return [re.escape(character) + (r"\s*" if character in "[{:," else "") for character in text]


def forms() -> tuple[Form, ...]:
    """The JSON forms and the tag form."""
    name = ['"', NAME, r'"\s*', *letters(",")]
    found = []
    for start in ([], letters("[")):
        for key in ("parameters", "arguments"):
            arguments = [*letters(f'"{key}"'), r"\s*", *letters(":"), r"(?=\{)"]
            plain = [*letters('"name"'), r"\s*", *letters(":"), *name, *arguments]
            kind = [*letters('"type"'), r"\s*", *letters(':"function"'), r"\s*", *letters(",")]
            nested = [*letters('"function"'), r"\s*", *letters(":{")]
            found.append(form([*start, *letters("{"), *plain], "}"))
            found.append(form([*start, *letters("{"), *kind, *plain], "}"))
            found.append(form([*start, *letters("{"), *kind, *nested, *plain], "}}"))
            function = [*letters('"function"'), r"\s*", *letters(":"), *name, *arguments]
            found.append(form([*start, *letters("{"), *function], "}"))
    found.append(form([*letters("<function="), NAME, r">\s*", r"(?=\{)"], "</function>"))
    return tuple(found)


FORMS = forms()
PYTHONIC = form([r"\[\s*", r"(?P<name>[A-Za-z_][\w.\-]{0,63})", r"\s*\("], "]")


class JsonObject:
    """Finds the end of one JSON object, character by character; its braces alone decide."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self.escaped = False

    def read(self, text: str) -> int | None:
        """How many characters of `text` belong to the object when it ends in it, else None."""
        for place, character in enumerate(text):
            if self.in_string:
                self.in_string = self.escaped or character != '"'
                self.escaped = character == "\\" and not self.escaped
            elif character == '"':
                self.in_string = True
            elif character == "{":
                self.depth += 1
            elif character == "}":
                self.depth -= 1
                if self.depth == 0:
                    return place + 1
        return None


class ToolReader:
    """Text of an answer in, parts out. calls: how many have begun; open: whether the latest is not complete."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self.calls = 0
        self._held = ""
        self._arguments: JsonObject | None = None
        self._closing = ""

    @property
    def is_open(self) -> bool:
        """Whether the latest call still lacks some of its arguments."""
        return self._arguments is not None

    def feed(self, text: str) -> list[Part]:
        """Parts that are certain now; what could be the beginning of a call is held back."""
        self._held += text
        return list(self._read(is_last=False))

    def flush(self) -> list[Part]:
        """End of the answer: what was held back."""
        return list(self._read(is_last=True))

    def _read(self, is_last: bool) -> Iterator[Part]:
        while self._held:
            if self._arguments is not None:
                yield from self._read_arguments(self._arguments)
            elif self._closing:
                if not self._read_closing() and not is_last:
                    return
            else:
                parts = self._read_text(is_last)
                if parts is None:
                    return
                yield from parts

    def _read_arguments(self, arguments: JsonObject) -> Iterator[Part]:
        end = arguments.read(self._held)
        fragment, self._held = self._held[:end], "" if end is None else self._held[end:]
        yield CallArguments(self.calls - 1, fragment)
        if end is not None:
            self._arguments = None

    def _read_closing(self) -> bool:
        """Drop what closes a call, as far as it has come; False to wait for more of it."""
        while self._closing:
            self._held = self._held.lstrip()
            if not self._held:
                return False
            if self._held[0] != self._closing[0]:
                self._closing = ""
                return True
            self._held, self._closing = self._held[1:], self._closing[1:]
        return True

    def _read_text(self, is_last: bool) -> list[Part] | None:
        """Parts up to where a call has begun or cannot have begun; None to wait for more."""
        if self.calls:
            self._held = self._held.lstrip(" \t\r\n;,]")  # between calls, and after a list of them
        match = re.search(r"[\[{<]", self._held)
        start = match.start() if match else len(self._held)
        said: list[Part] = [Said(self._held[:start])] if start else []
        self._held = self._held[start:]
        if said or not self._held:
            return said
        found = next(filter(None, (form.head.match(self._held) for form in FORMS)), None)
        if found and found["name"] in self.names:
            self._closing = next(form.closing for form in FORMS if form.head is found.re)
            return self._begin(found)
        pythonic = self._read_pythonic()
        if pythonic:
            return pythonic
        if not is_last and self._may_become_a_call():
            return None
        character, self._held = self._held[0], self._held[1:]
        return [Said(character)]

    def _begin(self, found: re.Match[str]) -> list[Part]:
        self.calls += 1
        self._held = self._held[found.end() :]
        self._arguments = JsonObject()
        return [CallBegun(self.calls - 1, found["name"])]

    def _may_become_a_call(self) -> bool:
        """Whether the held text is the beginning of a form, with the beginning of a known name where it has one."""
        for form in (*FORMS, PYTHONIC):
            match = form.begun.match(self._held)
            if match:
                name = match["name"]
                if name is None or any(known.startswith(name) for known in self.names):
                    return True
        begun = PYTHONIC.head.match(self._held)
        return bool(begun and begun["name"] in self.names and len(self._held) < PYTHONIC_LIMIT)

    def _read_pythonic(self) -> list[Part] | None:
        begun = PYTHONIC.head.match(self._held)
        if not begun or begun["name"] not in self.names:
            return None
        end = end_of_list(self._held)
        calls = None if end is None else read_calls(self._held[:end])
        if calls is None or not all(name in self.names for name, _ in calls):
            return None
        self._held = self._held[end:]
        parts: list[Part] = []
        for name, arguments in calls:
            parts += [CallBegun(self.calls, name), CallArguments(self.calls, json.dumps(arguments, ensure_ascii=False))]
            self.calls += 1
        return parts


def end_of_list(text: str) -> int | None:
    """Where the bracket that opens `text` closes, None when it does not; strings are skipped."""
    depth, quote, escaped = 0, "", False
    for place, character in enumerate(text):
        if quote:
            if not escaped and character == quote:
                quote = ""
            escaped = character == "\\" and not escaped
        elif character in "'\"":
            quote = character
        elif character in "[({":
            depth += 1
        elif character in "])}":
            depth -= 1
            if depth == 0:
                return place + 1
    return None


def read_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Calls of a pythonic list with their keyword arguments; None when it is something else."""
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        calls = []
        for call in tree.elts:
            if not isinstance(call, ast.Call) or call.args or any(item.arg is None for item in call.keywords):
                return None
            calls.append((ast.unparse(call.func), {str(item.arg): literal(item.value) for item in call.keywords}))
        json.dumps(calls)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return calls


def literal(node: ast.expr) -> Any:
    """Value of a literal; true, false and null of JSON count too. Raises ValueError for anything else."""
    words = {"true": True, "false": False, "null": None}
    if isinstance(node, ast.Name) and node.id in words:
        return words[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {literal(key) if key else None: literal(item) for key, item in zip(node.keys, node.values, strict=True)}
    return ast.literal_eval(node)
