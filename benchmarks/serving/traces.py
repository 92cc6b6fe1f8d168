"""What a server leaves behind: memory, files, threads, tasks, requests and blocks, and what its log says."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.servers import Server

METRICS = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "cache_used": "vllm:kv_cache_usage_perc",
    "tasks": "twofold:tasks",
    "preemptions": "vllm:num_preemptions_total",
}
BACK = ("running", "waiting", "cache_used", "tasks", "open_files")
"""What must be where it was once all clients have left."""
POOL_THREADS = 40
"""Workers beside the event loop are made when they are first needed, up to so many, and kept."""
GROWTH_MIB = 32
"""By how much the least memory of the last quarter may exceed that of the second: slow readers (each may let 4,096
tokens with their log-probabilities lie) and prompts of megabytes (refused once they are tokens) come and go by 60."""
COMPLAINT = re.compile(r"ERROR|Traceback|never retrieved|Exception ignored|was never awaited")


def read_metrics(text: str) -> dict[str, float]:
    """The metrics named above."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            values[line.split("{")[0].split(" ")[0]] = float(line.rsplit(" ", 1)[1])
    return {name: values[metric] for name, metric in METRICS.items()}


def traces(server: Server) -> dict[str, float]:
    """Figures of a server now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        figures = read_metrics(answer.read().decode())
    folder = Path(f"/proc/{server.process.pid}")
    return {
        **figures,
        "memory_mib": round(server.status_bytes("VmRSS") / 2**20, 1),
        "threads": len(list((folder / "task").iterdir())),
        "open_files": len(list((folder / "fd").iterdir())),
    }


def differences(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What has not come back, in words."""
    found = [f"{name} was {before[name]:g} and is {after[name]:g}" for name in BACK if after[name] > before[name]]
    if after["threads"] > before["threads"] + POOL_THREADS:
        found.append(f"threads were {before['threads']:g} and are {after['threads']:g}")
    return found


def growth(memory_mib: Sequence[float]) -> list[str]:
    """What memory under a steady load says of a leak, in words; the samples are spread evenly over it."""
    quarter = len(memory_mib) // 4
    if quarter < 2:
        return []
    early, late = min(memory_mib[quarter : 2 * quarter]), min(memory_mib[-quarter:])
    if late <= early + GROWTH_MIB:
        return []
    return [f"memory was down to {early} MiB in the second quarter of the load and never below {late} MiB in the last"]


def complaints(log: str) -> list[str]:
    """Lines of a log that tell of something that went wrong inside."""
    return [f"the log says: {line[:300]}" for line in log.splitlines() if COMPLAINT.search(line)]


def unread_bytes(table: str, port: int) -> int:
    """The most that waits in the kernel for one reader of this port; `table` is /proc/net/tcp."""
    rows = [line.split() for line in table.splitlines()[1:]]
    waiting = [int(row[4].split(":")[0], 16) for row in rows if int(row[1].split(":")[1], 16) == port]
    return max(waiting, default=0)


async def watch(server: Server, every_s: float, memory_mib: list[float], unread: list[int]) -> None:
    """Note memory, and what slow readers leave unread, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        memory_mib.append(round(server.status_bytes("VmRSS") / 2**20, 1))
        unread.append(unread_bytes(Path("/proc/net/tcp").read_text(), server.port))
