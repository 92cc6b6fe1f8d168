"""The result of a comparison as a record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from twofold.migrate.figures import Figures
from twofold.migrate.judging import Pair
from twofold.migrate.verdict import Verdict

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything there is. wanted: requests that were to be asked. made: when, in local time."""

    old: str
    new: str
    figures: Figures
    verdict: Verdict
    pairs: tuple[Pair, ...]
    wanted: int
    currency: str
    settings: dict[str, str]
    bad_lines: tuple[tuple[int, str], ...]
    made: str

    def to_json(self) -> dict[str, Any]:
        """As JSON; prompts and answers are in it, keys are not."""
        return {
            "format": FORMAT,
            "made": self.made,
            "go": self.verdict.is_go,
            "partial": self.verdict.is_partial,
            "reasons": self.verdict.reasons,
            "checks": [asdict(check) for check in self.verdict.checks],
            "old": self.old,
            "new": self.new,
            "currency": self.currency,
            "settings": self.settings,
            "figures": asdict(self.figures),
            "bad_lines": [{"line": line, "problem": problem} for line, problem in self.bad_lines],
            "pairs": [pair_json(pair) for pair in self.pairs],
        }


def pair_json(pair: Pair) -> dict[str, Any]:
    """One request with what became of it."""
    return {
        "line": pair.ask.line,
        "request": dict(pair.ask.body),
        "old": {**asdict(pair.old), "validity": asdict(pair.old_validity)},
        "new": {**asdict(pair.new), "validity": asdict(pair.new_validity)},
        "agreement": asdict(pair.agreement) if pair.agreement else None,
    }
