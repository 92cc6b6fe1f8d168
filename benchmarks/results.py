"""Result files: one JSON object per run, never overwritten."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twofold.bench.machine import describe_machine

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"


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
        "machine": describe_machine(2**30),
        "figures": figures,
    }
    path = FOLDER / f"{now:%Y-%m-%d-%H%M}-{benchmark}-{short_name(content['machine']['cpu'])}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.rename(path)
    return path
