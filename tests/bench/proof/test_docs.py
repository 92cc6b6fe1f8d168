"""The documentation defines the figures with the same words as the report."""

from __future__ import annotations

from pathlib import Path

from twofold.bench.proof.model import METRICS


def test_every_figure_is_defined_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "proving.md").read_text()
    for metric in METRICS.values():
        assert f"| {metric.title}, {metric.unit} | {metric.meaning} |" in text
