"""Result files: one JSON object per run, never overwritten."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twofold.backends.cpu import machine

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory and the limit of its memory, measured now."""
    cpu = machine.cpu()
    return {
        "cpu": cpu.name,
        "isa": cpu.chosen_isa,
        "threads": cpu.threads,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "read_limit_bytes_per_s": round(machine.measure_read(2**30)),
        "python": platform.python_version(),
    }


def short_name(cpu: str) -> str:
    """A CPU's name as part of a file name: "Intel(R) Xeon(R) Processor" is intel-xeon."""
    words = re.sub(r"\((r|tm)\)|processor|cpu|[^a-z0-9]+", " ", cpu.lower()).split()
    return "-".join(words) or "unknown"


def write_result(benchmark: str, command: str, figures: list[dict[str, Any]]) -> Path:
    """Write a result under a name of its own, whole or not at all."""
    now = datetime.now(UTC)
    content = {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "command": command,
        "time": now.isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "figures": figures,
    }
    path = FOLDER / f"{now:%Y-%m-%d-%H%M}-{benchmark}-{short_name(content['machine']['cpu'])}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.rename(path)
    return path
