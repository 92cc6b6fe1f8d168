"""What a result must say of the machine it was measured on."""

from __future__ import annotations

import os
import platform
from typing import Any

from twofold.backends.cpu import machine


def describe_machine(buffer_bytes: int = 2**28) -> dict[str, Any]:
    """CPU, cores, memory, system, and the limit of its memory, measured now with a buffer of so many bytes."""
    cpu = machine.cpu()
    return {
        "cpu": cpu.name,
        "isa": cpu.chosen_isa,
        "threads": cpu.threads,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "read_limit_bytes_per_s": round(machine.measure_read(buffer_bytes)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
