"""A scan: all findings in a file or below a folder, and the texts with the safe ones applied."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twofold.migrate.files import Source, sources
from twofold.migrate.findings import Finding, Placed, place
from twofold.migrate.launches import launches
from twofold.migrate.matching import IN_TESTS, findings_of, has_signs
from twofold.migrate.rules import rules_for
from twofold.migrate.stretches import stretches

MOST_ROUNDS = 5
"""A change may lie inside another one; what is left is applied in a further round."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A file with the safe findings applied."""

    source: Source
    text: str
    count: int

    def diff(self) -> str:
        """The change as a unified diff; of settings without the lines around it, which may hold secrets."""
        old, new = (re.findall(r"[^\n]*\n|[^\n]+\Z", text) for text in (self.source.text, self.text))
        around = 0 if self.source.kind == "settings" else 3
        lines = difflib.unified_diff(old, new, f"a/{self.source.name}", f"b/{self.source.name}", n=around)
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


@dataclass(kw_only=True)
class Scan:
    """What was found. skipped: files and folders that were not read, by reason."""

    to: str
    files: int = 0
    findings: list[Placed] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def safe(self) -> list[Placed]:
        """Findings that a machine may act on."""
        return [item for item in self.findings if item.finding.is_safe]

    def to_json(self) -> dict[str, Any]:
        """All of it, with the diff as text."""
        return {
            "to": self.to,
            "files": self.files,
            "safe": len(self.safe),
            "look": len(self.findings) - len(self.safe),
            "skipped": dict(self.skipped),
            "findings": [item.to_json() for item in self.findings],
            "diff": "".join(change.diff() for change in self.changes),
        }


def scan(root: Path, to: str = "llama4") -> Scan:
    """Find what belongs to the old system. to: llama4, or llama3. Raises SettingsError for a path that is not there."""
    found = Scan(to=to)
    for source in sources(root, found.skipped):
        found.files += 1
        items = findings_in(source, to)
        found.findings += [place(source.name, source.text, item) for item in items]
        text, count = applied(source, items, to)
        if text != source.text:
            found.changes.append(Change(source=source, text=text, count=count))
    return found


def findings_in(source: Source, to: str) -> list[Finding]:
    """Findings of one file, in order of place."""
    if not has_signs(source):
        return []
    parts = stretches(source.text, source.kind)
    items = [*findings_of(source, parts, rules_for(to)), *guarded(source, list(launches(source, parts)))]
    return sorted(items, key=lambda item: (item.start, -item.end))


def guarded(source: Source, items: Sequence[Finding]) -> list[Finding]:
    """Commands in tests and fixtures are told, never changed."""
    if not IN_TESTS.search(source.name):
        return list(items)
    return [replace(item, replacement=None, confidence="low") for item in items]


def applied(source: Source, items: Sequence[Finding], to: str) -> tuple[str, int]:
    """A file's text with its safe findings applied, and how many they were."""
    text, count = source.text, 0
    for _ in range(MOST_ROUNDS):
        parts, done = [], 0
        for item in items:
            if item.replacement is not None and item.start >= done:
                parts += [text[done : item.start], item.replacement]
                done, count = item.end, count + 1
        if not done:
            break
        text = "".join([*parts, text[done:]])
        items = inside_only(items, findings_in(replace(source, text=text), to))
    return text, count


def inside_only(before: Sequence[Finding], after: Sequence[Finding]) -> list[Finding]:
    """Of the findings after a round, those that were hidden in another one before it."""
    hidden = {item.rule for item in before if item.is_safe}
    return [item for item in after if item.rule in hidden]


def write(change: Change) -> str | None:
    """Put a changed file in the place of the old one, in one step; what kept it from being done, else None."""
    path = change.source.path
    try:
        if path.is_symlink() or path.read_bytes() != change.source.data:
            return "it changed while it was read"
        if not os.access(path, os.W_OK):
            return "it may not be written to"
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(change.source.encode(change.text))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, path.stat().st_mode & 0o7777)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        return error.strerror or str(error)
    return None
