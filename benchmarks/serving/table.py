"""The figures of servers as a table for a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from twofold.bench.quiet import LOUD

WIDTH = 140


def show(figures: dict[str, Any], overhead: dict[str, float]) -> None:
    """Print one network's figures."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(level_table(figures))
    for line in remarks(figures, overhead):
        console.print(line, highlight=False, markup=False)


def level_table(figures: dict[str, Any]) -> Table:
    """Levels and their figures down, servers across."""
    table = Table(title=f"{figures['network']}, {figures['dtype']}", title_justify="left")
    for name in ("streams", "", *(row["engine"] for row in figures["engines"])):
        table.add_column(name, justify="left" if name in ("streams", "") else "right")
    levels = figures["engines"][0]["levels"]
    for level, names in levels.items():
        table.add_section()
        for name in names:
            table.add_row(level, name.replace("_", " "), *(cell(row, level, name) for row in figures["engines"]))
    return table


def cell(row: dict[str, Any], level: str, name: str) -> str:
    """A median, and how many times as good twofold is."""
    ratio = row.get("twofold_times_as_good", {}).get(level, {}).get(name)
    value = row["levels"][level].get(name)
    text = "-" if value is None else f"{value['median']:,.1f}"
    return text if ratio is None else f"{text} (x{ratio:.2f})"


def remarks(figures: dict[str, Any], overhead: dict[str, float]) -> list[str]:
    """What the table cannot say."""
    load = figures["load"]
    lines = [
        f"prompts of {load['prompt_tokens']} random tokens, answers of {load['answer_tokens']}; "
        f"{load['requests']} requests of each stream. (x1.50) under a peer: twofold is 1.5 times as good.",
        f"the client alone, {overhead['streams']:g} streams: a token is stamped {overhead['delay_ms']:.2f} (p50), "
        f"{overhead['delay_p99_ms']:.2f} ms (p99) after its writing and takes {overhead['work_per_token_ms']:.3f} ms",
    ]
    for row in figures["engines"]:
        memory, client = row["peak_memory_bytes"]["median"] / 1e9, row["client_share"]["median"]
        lines.append(
            f"{row['engine']}: ready after {row['start_s']['median']:.2f} s, peak memory {memory:.2f} GB; "
            f"the client took {client:.1%} of the cores"
        )
        if row["others_share"]["most"] > LOUD:
            lines.append(f"{row['engine']}: NOT QUIET, other programs took up to {row['others_share']['most']:.0%}")
    return lines
