"""What quantisation did to every matrix, for machines and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twofold.quant.page import page
from twofold.quant.recipe import Recipe
from twofold.weights.write import write_json

REPORT, PAGE = "quantisation_report.json", "quantisation_report.html"


def write_report(
    folder: Path,
    recipe: Recipe,
    text_tokens: Sequence[int],
    records: Sequence[dict[str, Any]],
    size_bytes: int,
    choice: Mapping[str, Any] | None = None,
) -> None:
    """quantisation_report.json: totals and one record per matrix (quantise.Record); the .html shows it in pictures.

    `choice`: what the scheme mixed chose and why (choosing.Choice).
    """
    report = {
        "scheme": recipe.scheme,
        "method": recipe.method,
        "transform": recipe.transform,
        "calibration": {"texts": len(text_tokens), "tokens": sum(text_tokens)},
        "size_bytes": size_bytes,
        "rare_experts": [row["name"] for row in records if row["forced"]],
        "experts_without_tokens": [row["name"] for row in records if recipe.method == "gptq" and is_missed(row)],
        "matrices": list(records),
    }
    if choice is not None:
        report["choice"] = choice
    write_json(folder / REPORT, report)
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def is_missed(row: dict[str, Any]) -> bool:
    """Whether an expert's matrix had to be rounded plainly because no token reached it."""
    return ".experts_" in row["name"] and row["tokens"] == 0
