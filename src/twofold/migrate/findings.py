"""What a scan reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One place that belongs to the old system.

    start, end: characters of the file's text that are meant. replacement: what a machine may put there; None where a
    person must look. becomes: the same in words.
    """

    rule: str
    start: int
    end: int
    found: str
    what: str
    becomes: str
    why: str
    confidence: Confidence = "high"
    replacement: str | None = None

    @property
    def is_safe(self) -> bool:
        """Whether a machine may make the change."""
        return self.replacement is not None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A finding with its place: path relative to what was scanned, line and column from 1."""

    path: str
    line: int
    column: int
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        """All of it as one flat object."""
        fields = asdict(self.finding)
        place = {"path": self.path, "line": self.line, "column": self.column}
        return {**place, "safe": self.finding.is_safe, **fields}


def place(path: str, text: str, finding: Finding) -> Placed:
    """Line and column of a finding in its file's text."""
    line = text.count("\n", 0, finding.start) + 1
    column = finding.start - (text.rfind("\n", 0, finding.start) + 1) + 1
    return Placed(path=path, line=line, column=column, finding=finding)
