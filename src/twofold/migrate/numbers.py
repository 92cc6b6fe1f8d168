"""Whole numbers that are the value, or in the list, of a setting with a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

LIST = (
    r"\[[\d\s,_]*\]?|\([\d\s,_]*\)?|\d[\d_]*\b(?![.\w])(?:[ \t]*,[ \t]*\d+\b)*"
    r"|(?:[ \t]*(?:#[^\n]*)?\r?\n[ \t]*-[ \t]+\d+\b)+"
)
SETTING = re.compile(rf"""(?<!\w)(?P<key>[A-Za-z][\w\-]{{0,60}})["']?\s*[:=][ \t]*["']?(?P<value>{LIST})""")
OPTION = re.compile(r"(?P<key>--[a-z][\w\-]*)[ \t]+(?P<value>\d+\b(?:[ \t]+\d+\b)*)")
WORDS = re.compile(r"(?m)^(?:PARAMETER[ \t]+)(?P<key>\w+)[ \t]+(?P<value>\d+)\b")
NUMBER = re.compile(r"(?<![\w.])\d[\d_]*(?![\w.])")


@dataclass(frozen=True)
class Number:
    """A whole number; key is the setting's name in small letters without signs, "" for a number that has none."""

    value: int
    start: int
    end: int
    key: str = ""


def plain(name: str) -> str:
    """A setting's name in small letters, without the signs between words."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def python_numbers(text: str) -> Iterator[Number]:
    """Numbers of a Python file that are given to a keyword, a name, an attribute, a default or a key of a dictionary.

    The file must parse.
    """
    starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text)), len(text)]
    for name, node in given(ast.parse(text)):
        for number in numbers_in(node):
            row, column = number.lineno - 1, number.col_offset
            line = text[starts[row] : starts[row + 1]].encode()
            start = starts[row] + len(line[:column].decode())  # columns of ast are bytes of UTF-8
            assert number.end_col_offset is not None
            assert isinstance(number.value, int)
            yield Number(number.value, start, start + number.end_col_offset - column, plain(name))


def given(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and the values they are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value
        elif isinstance(node, ast.Assign):
            yield from ((name_of(target), node.value) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and node.value:
            yield name_of(node.target), node.value
        elif isinstance(node, ast.Dict):
            yield from ((name_of(key), value) for key, value in zip(node.keys, node.values, strict=True) if key)
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            yield from zip((item.arg for item in positional), node.defaults, strict=True)
            keyword_only = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            yield from ((item.arg, value) for item, value in keyword_only if value)


def name_of(node: ast.expr) -> str:
    """The last name of what is assigned to; "" where there is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return name_of(node.slice)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def numbers_in(node: ast.expr) -> Iterator[ast.Constant]:
    """The whole numbers of a value that is one, or a list of some."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        for item in node.elts:
            yield from numbers_in(item)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield node


def text_numbers(text: str) -> Iterator[Number]:
    """Numbers of any other file that stand behind a name and a sign, an option, or PARAMETER of a Modelfile."""
    for pattern in (SETTING, OPTION, WORDS):
        for match in pattern.finditer(text):
            for number in NUMBER.finditer(text, match.start("value"), match.end("value")):
                yield Number(int(number[0].replace("_", "")), number.start(), number.end(), plain(match["key"]))


def bare_numbers(text: str) -> Iterator[Number]:
    """All whole numbers of five digits and more, whatever they stand for."""
    for match in re.finditer(r"(?<![\w.\-])\d{5,}(?![\w.\-])", text):
        yield Number(int(match[0]) if len(match[0]) < 20 else 0, match.start(), match.end())
