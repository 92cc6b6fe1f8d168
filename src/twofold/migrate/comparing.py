"""Asks both sides, one request after the other, and keeps what was found so far on the disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twofold.errors import SettingsError
from twofold.migrate.answers import Ask, Side
from twofold.migrate.figures import Price, figures_of
from twofold.migrate.judging import Pair, judge
from twofold.migrate.report import Report
from twofold.migrate.report_page import page_of
from twofold.migrate.verdict import Limits, decide

KEEP_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and by which measure. prices: of the old and the new side."""

    old: Side
    new: Side
    limits: Limits
    currency: str = "USD"
    prices: tuple[Price | None, Price | None] = (None, None)
    settings: dict[str, str] = field(default_factory=dict)
    bad_lines: tuple[tuple[int, str], ...] = ()

    def pairs(self, asks: Sequence[Ask]) -> Iterator[Pair]:
        """Both answers to each request; the sides take turns in going first."""
        for index, ask in enumerate(asks):
            if index % 2:
                new = self.new.answer(ask)
                old = self.old.answer(ask)
            else:
                old = self.old.answer(ask)
                new = self.new.answer(ask)
            yield judge(ask, old, new)

    def report(self, pairs: Sequence[Pair], wanted: int) -> Report:
        """What the answers so far say."""
        figures = figures_of(pairs, *self.prices)
        return Report(
            old=self.old.told, new=self.new.told, figures=figures, pairs=tuple(pairs), wanted=wanted,
            verdict=decide(figures, self.limits, len(pairs) < wanted), currency=self.currency, settings=self.settings,
            bad_lines=self.bad_lines, made=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )  # fmt: skip


def compare(
    comparison: Comparison, asks: Sequence[Ask], folder: Path | None, progress: Callable[[int, Pair], None]
) -> Report:
    """Ask everything, and write report.html and report.json into the folder now and then, and at the end.

    An interruption (KeyboardInterrupt) ends the asking; what was found is kept, and marked as partial.
    """
    pairs: list[Pair] = []
    kept_at = time.monotonic()
    try:
        for pair in comparison.pairs(asks):
            pairs.append(pair)
            progress(len(pairs), pair)
            if folder is not None and time.monotonic() - kept_at > KEEP_EVERY_S:
                keep(comparison.report(pairs, len(asks)), folder)
                kept_at = time.monotonic()
    except KeyboardInterrupt:
        progress(len(pairs), pairs[-1]) if pairs else None
    report = comparison.report(pairs, len(asks))
    if folder is not None:
        keep(report, folder)
    return report


def keep(report: Report, folder: Path) -> None:
    """Write both forms of a report, each in one step. Raises SettingsError."""
    for name, text in (("report.json", json.dumps(report.to_json(), indent=1)), ("report.html", page_of(report))):
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{name}.unfinished")
            unfinished.write_text(text, "utf-8")
            os.replace(unfinished, path)
        except OSError as error:
            raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
