"""How quiet the machine was: the share of its cores that other programs took while something was measured."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

LOUD = 0.05
"""A larger share is told beside the figures: engines whose threads wait for one another suffer first."""
STAT = Path("/proc/stat")


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Seconds of work so far: of all programs together, and of those this one started and waited for."""

    at: float
    all_s: float
    own_s: float


def busy_seconds(stat: str, ticks_per_s: int) -> float:
    """Seconds all cores together were not idle, from the first line of /proc/stat; time a host took away counts."""
    user, nice, system, _, _, *rest = map(int, stat.splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / ticks_per_s


def read_clock() -> Clock:
    """The clock now."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    all_s = busy_seconds(STAT.read_text(), os.sysconf("SC_CLK_TCK"))
    return Clock(at=time.monotonic(), all_s=all_s, own_s=own.ru_utime + own.ru_stime)


def clock_with(server_s: float | None) -> Clock | None:
    """The clock now, with this process and a server's seconds of work as one's own; None where either is not told."""
    if server_s is None or not STAT.exists():
        return None
    return replace(read_clock(), own_s=time.process_time() + server_s)


def others_share(before: Clock, after: Clock, cores: int) -> float:
    """Share of all cores that others used between two clocks, 0 to 1."""
    used = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, used / ((after.at - before.at) * cores)))
