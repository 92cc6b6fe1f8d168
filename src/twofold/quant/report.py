"""What quantisation did to every matrix, for machines and for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twofold.quant.page import page
from twofold.weights.write import write_json

REPORT, PAGE = "quantisation_report.json", "quantisation_report.html"


def write_report(
    folder: Path,
    scheme: str,
    method: str,
    transform: str,
    text_tokens: Sequence[int],
    records: Sequence[dict[str, Any]],
    size_bytes: int,
) -> None:
    """quantisation_report.json: totals and one record per matrix (quantise.Record); the .html shows it in pictures."""
    report = {
        "scheme": scheme,
        "method": method,
        "transform": transform,
        "calibration": {"texts": len(text_tokens), "tokens": sum(text_tokens)},
        "size_bytes": size_bytes,
        "rare_experts": [row["name"] for row in records if row["forced"]],
        "experts_without_tokens": [row["name"] for row in records if method == "gptq" and is_missed(row)],
        "matrices": list(records),
    }
    write_json(folder / REPORT, report)
    (folder / PAGE).write_text(page(report), encoding="utf-8")


def is_missed(row: dict[str, Any]) -> bool:
    """Whether an expert's matrix had to be rounded plainly because no token reached it."""
    return ".experts_" in row["name"] and row["tokens"] == 0
