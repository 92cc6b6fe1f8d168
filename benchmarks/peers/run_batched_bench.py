"""Runner for llama.cpp and programs that speak like its llama-batched-bench; weights is a GGUF file.

options: "program", its path; "flags", further arguments; "version", what the report says; "is_alike", whether the
program feeds one token again and again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.protocol import EngineFailed, Report, Request, Task

ROW = re.compile(
    r"\|\s*(\d+) \|\s*(\d+) \|\s*(\d+) \|\s*\d+ \|\s*([\d.]+) \|\s*([\d.]+) \|\s*([\d.]+) \|\s*([\d.]+) \|"
)
CELLS = 256
"""A sequence's share of the context is a multiple of this."""


@dataclass(frozen=True)
class Row:
    """A line of the program's table."""

    prompt: int
    steps: int
    sequences: int
    read_s: float
    read_tokens_per_s: float
    decode_s: float
    decode_tokens_per_s: float


def parse_row(line: str) -> Row | None:
    """A row of figures, or None for any other line."""
    found = ROW.match(line.strip())
    if not found:
        return None
    counts, figures = found.groups()[:3], found.groups()[3:]
    return Row(*map(int, counts), *map(float, figures))


def groups(tasks: Iterable[Task]) -> list[tuple[list[int], list[int]]]:
    """Tasks as few products of prompts and sequences: the program runs every prompt with every batch."""
    batches: dict[int, set[int]] = {}
    for task in tasks:
        batches.setdefault(task.prompt, set()).add(task.sequences)
    prompts: dict[tuple[int, ...], list[int]] = {}
    for prompt, counts in sorted(batches.items()):
        prompts.setdefault(tuple(sorted(counts)), []).append(prompt)
    return [(alike, list(counts)) for counts, alike in prompts.items()]


def arguments(request: Request, prompts: Sequence[int], counts: Sequence[int]) -> list[str]:
    """The command line for one product."""
    per_sequence = -(-(max(prompts) + request.steps) // CELLS) * CELLS
    threads = str(request.threads)
    return [
        *(
            str(Path(request.options["program"]).resolve()),
            "-m",
            str(Path(request.weights).resolve()),
            "-t",
            threads,
            "-tb",
            threads,
        ),
        *("-c", str(per_sequence * max(counts)), "-b", "2048", "-ub", "512", "-ntg", str(request.steps)),
        *("-npp", ",".join(map(str, prompts)), "-npl", ",".join(map(str, counts))),
        *request.options.get("flags", ()),
    ]


def run(command: list[str]) -> tuple[list[Row], float, int]:
    """Rows, seconds until the first prompt was begun, and peak memory in bytes; raises EngineFailed."""
    start = time.monotonic()
    with TemporaryDirectory() as elsewhere:  # some of these programs leave a log where they are started
        return watch(command, start, elsewhere)


def watch(command: list[str], start: float, folder: str) -> tuple[list[Row], float, int]:
    """See run; `start` is when it began, `folder` where the program runs."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    rows: list[Row] = []
    start_s, last = 0.0, ""
    with process.stdout:
        for line in process.stdout:
            row = parse_row(line)
            if row and not rows:
                start_s = time.monotonic() - start - row.read_s - row.decode_s
            rows += [row] if row else []
            last = line.strip() or last
    _, status, usage = os.wait4(process.pid, 0)  # wait() would not tell the memory
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not rows:
        raise EngineFailed(f"{command[0]} ended with code {process.returncode}: {last[:300]}")
    return rows, start_s, usage.ru_maxrss * 1024


def measure(request: Request) -> Report:
    """Run every product and gather the rows."""
    rates: dict[str, tuple[float, float]] = {}
    starts, peaks = [], []
    for prompts, counts in groups(task for task in request.tasks if not task.is_alike):
        rows, start_s, peak_bytes = run(arguments(request, prompts, counts))
        for row in rows:
            for is_alike in {False, request.options.get("is_alike", False)}:
                name = Task(prompt=row.prompt, sequences=row.sequences, is_alike=is_alike).name
                rates[name] = (row.read_tokens_per_s, row.decode_tokens_per_s)
        starts.append(start_s)
        peaks.append(peak_bytes)
    return Report(
        version=request.options["version"],
        start_s=round(starts[0], 3),
        peak_memory_bytes=max(peaks),
        rates=rates,
    )


if __name__ == "__main__":
    try:
        print(measure(Request.from_json(sys.argv[-1])).to_json())
    except EngineFailed as error:
        sys.exit(str(error))
