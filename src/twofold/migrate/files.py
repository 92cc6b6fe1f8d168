"""The files of a scan: which are read, which are left out and why, and their text with every byte kept."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twofold.errors import SettingsError

MOST_BYTES = 2**20
LONG_LINE = 20_000
"""Characters of a line that nobody wrote by hand: minified code, data."""
SUFFIXES = {
    **dict.fromkeys((".py", ".pyi"), "python"),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts"), "javascript"),
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
    **dict.fromkeys((".json", ".jsonc"), "json"),
    **dict.fromkeys((".sh", ".bash", ".zsh", ".ksh", ".mk"), "shell"),
    **dict.fromkeys((".service", ".ini", ".cfg", ".conf", ".properties"), "settings"),
    **dict.fromkeys((".jinja", ".jinja2", ".j2"), "jinja"),
    ".toml": "toml",
    ".env": "settings",
    ".ipynb": "notebook",
    ".modelfile": "modelfile",
    ".dockerfile": "dockerfile",
}
NAMES = {
    "dockerfile": "dockerfile",
    "containerfile": "dockerfile",
    "modelfile": "modelfile",
    "makefile": "shell",
    "procfile": "shell",
    ".env": "settings",
}
LEFT_OUT = {
    *(".git", ".hg", ".svn", "node_modules", "bower_components", "vendor", "third_party", "site-packages", ".venv"),
    *("venv", "__pycache__", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".next", "dist", "build"),
}
OF_A_MODEL = {
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.json"),
}
BESIDE_A_TOKENIZER = ("config.json", "chat_template.jinja", "params.json")
UTF_16 = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that was read. name: its path relative to what is scanned, with slashes."""

    path: Path
    name: str
    kind: str
    data: bytes
    text: str
    encoding: str

    def encode(self, text: str) -> bytes:
        """A text in the file's own encoding."""
        return text.encode(self.encoding, "surrogateescape" if self.encoding == "utf-8" else "strict")


def kind_of(path: Path) -> str | None:
    """What a file is by its name; None for kinds that are not scanned."""
    name = path.name.lower()
    stem = re.split(r"[.\-]", name.lstrip("."), maxsplit=1)[0]
    if name.startswith(".env"):
        return "settings"
    return SUFFIXES.get(path.suffix.lower()) or NAMES.get(name) or NAMES.get(stem)


def sources(root: Path, skipped: Counter[str]) -> Iterator[Source]:
    """The files to scan, in order of their names; the others are counted by reason. Raises SettingsError."""
    if not root.exists():
        raise SettingsError(f"{root} is neither a file nor a folder; name what is to be scanned")
    for path in [root] if root.is_file() else walk(root, skipped):
        name = path.name if root.is_file() else path.relative_to(root).as_posix()
        found = read(path, name, skipped)
        if found is not None:
            yield found


def walk(root: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files below a folder; folders that are not one's own code are left out."""
    for folder, folders, files in os.walk(root, onerror=lambda _: skipped.update(["unreadable"])):
        for name in sorted(folders):
            if name.lower() in LEFT_OUT or Path(folder, name).is_symlink():
                folders.remove(name)
                skipped["folders of others (.git, node_modules, vendor ...) and linked folders"] += 1
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))


def read(path: Path, name: str, skipped: Counter[str]) -> Source | None:
    """A file's text, or None and one more in `skipped`."""
    kind, reason, data = kind_of(path), None, b""
    try:
        if path.is_symlink() or not path.is_file():
            reason = "links and devices"
        elif is_of_a_model(path):
            reason = "files of a model (they belong to its weights)"
        elif kind is None:
            reason = "other kinds of files"
        elif path.stat().st_size > MOST_BYTES:
            reason = f"larger than {MOST_BYTES // 2**20} MiB"
        else:
            data = path.read_bytes()
    except OSError:
        reason = "unreadable"
    decoded = None if reason else decode(data)
    if not reason and decoded is None:
        reason = "binary"
    if decoded and max(map(len, decoded[0].split("\n"))) > LONG_LINE:
        reason = "minified or data (very long lines)"
    if reason or decoded is None:
        skipped[reason or "binary"] += 1
        return None
    assert kind is not None
    return Source(path=path, name=name, kind=kind, data=data, text=decoded[0], encoding=decoded[1])


def is_of_a_model(path: Path) -> bool:
    """Whether a file belongs to a checkpoint: changed, it would no longer fit the weights."""
    beside = path.name in BESIDE_A_TOKENIZER and any(
        (path.parent / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    )
    return path.name in OF_A_MODEL or beside


def decode(data: bytes) -> tuple[str, str] | None:
    """Text and encoding such that encoding gives the same bytes again; None for binary data."""
    for mark, encoding in UTF_16:
        if data.startswith(mark):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                return None
            return (text, encoding) if text.encode(encoding) == data else None
    if b"\0" in data:
        return None
    return data.decode("utf-8", "surrogateescape"), "utf-8"
