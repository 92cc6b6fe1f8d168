"""Ceilings: lines of code per file and per function. A file that outgrows its ceiling is split or shortened."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = sorted((ROOT / "src").rglob("*.py")) + sorted((ROOT / "recipes").rglob("*.py"))
NATIVE = sorted([*(ROOT / "native").rglob("*.cpp"), *(ROOT / "native").rglob("*.h")])
FILE_CEILING = 300
FUNCTION_CEILING = 50


def lines_of_code(text: str, comment: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith(comment))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_python_file_stays_readable(path: Path) -> None:
    text = path.read_text()
    assert lines_of_code(text, "#") <= FILE_CEILING
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_CEILING, f"{node.name} is too long"


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_native_file_stays_readable(path: Path) -> None:
    assert lines_of_code(path.read_text(), "//") <= FILE_CEILING
