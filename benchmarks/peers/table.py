"""The figures as tables for a terminal."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.summary import FIGURES, cell
from twofold.bench.quiet import LOUD

WIDTH = 140


def show(figures: dict[str, Any]) -> None:
    """Print one network's figures, or the weight errors."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(error_table(figures["weight_errors"]) if "weight_errors" in figures else speed_table(figures))
    for line in remarks(figures):
        console.print(line, highlight=False, markup=False)


def speed_table(figures: dict[str, Any]) -> Table:
    """Workloads down, engines across."""
    ran = [row for row in figures["engines"] if "workloads" in row]
    title = f"{figures['network']}, {figures['dtype']}, {figures['threads']} threads: tokens per second"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for row in ran:
        table.add_column(f"{row['engine']}\n{row['form']}", justify="right")
    for figure in FIGURES:
        cells = [cell(row["workloads"].get(figure.name), row["engine"] == "twofold") for row in ran]
        if figure.task.is_alike and not any(
            row["workloads"].get(figure.name) for row in ran if row["engine"] != "twofold"
        ):
            continue  # nobody to compare with
        table.add_row(figure.name, *cells)
    table.add_section()
    table.add_row("start, s", *(f"{row['start_s']['median']:.2f}" for row in ran))
    table.add_row("weights file, GB", *(f"{row['file_bytes'] / 1e9:.2f}" for row in ran))
    table.add_row("peak memory above it, GB", *(f"{row['above_file_bytes'] / 1e9:.2f}" for row in ran))
    return table


def error_table(rows: list[dict[str, Any]]) -> Table:
    """Formats down, matrices across."""
    matrices = list(dict.fromkeys(row["matrix"] for row in rows))
    table = Table(title="relative RMS error of the weights", title_justify="left")
    table.add_column("format")
    for name in ("bits", *matrices):
        table.add_column(name, justify="right")
    for form in dict.fromkeys(row["form"] for row in rows):
        own = {row["matrix"]: row for row in rows if row["form"] == form}
        first = next(iter(own.values()))
        table.add_row(form, f"{first['bits']:.2f}", *(f"{own[name]['relative_rms']:.4f}" for name in matrices))
    return table


def remarks(figures: dict[str, Any]) -> list[str]:
    """What the table cannot say: limits, engines that did not run, skipped workloads, notes."""
    if "weight_errors" in figures:
        return []
    limits = figures["limits"]
    read = statistics.median(item["read_bytes_per_s"] for item in limits) / 1e9
    int8, int4 = (statistics.median(item[f"{codes}_ops_per_s"] for item in limits) / 1e12 for codes in ("int8", "int4"))
    lines = [
        "(x1.50) under a peer: twofold is 1.5 times as fast. (80%) under twofold: share of the machine's limit.",
        f"limits in the same rounds: {read:.1f} GB/s read, {int8:.2f} TOP/s int8, {int4:.2f} TOP/s int4",
    ]
    for row in figures["engines"]:
        if "reason" in row:
            lines.append(f"{row['engine']} did not run: {row['reason']}")
        if "settled_s" in row:
            lines.append(
                f"{row['engine']}: all of its weights are where they stay after {row['settled_s']['median']:.2f} s"
            )
        if row.get("note"):
            lines.append(f"{row['engine']}: {row['note']}")
        others = row.get("others_share", {}).get("most", 0.0)
        if others > LOUD:
            lines.append(f"{row['engine']}: NOT QUIET, other programs took up to {others:.0%} of the cores meanwhile")
        for name, entry in row.get("workloads", {}).items():
            if "skipped" in entry:
                lines.append(f"{row['engine']}, {name}: skipped, {entry['skipped']}")
    return lines
