"""Time on a device: calls captured in a graph, which is how a step of decoding runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

Call = Callable[[], object]
COMPILERS = 12
REPLAYS = 5


def compile_all(calls: Sequence[Call]) -> list[str]:
    """Run every call once, several at a time, so that their kernels are compiled side by side; what failed."""
    failures = []
    if calls:
        calls[0]()  # the first one alone: it starts the driver
    with ThreadPoolExecutor(COMPILERS) as pool:
        for future in [pool.submit(call) for call in calls[1:]]:
            failure = future.exception()
            if failure is not None:
                failures.append(f"{type(failure).__name__}: {str(failure)[:200]}")
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return failures


def graph_us(calls: Sequence[Call]) -> float:
    """Microseconds of one call, of these calls one after the other: give as many as outgrow the cache."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(REPLAYS):
        graph.replay()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1000 / (REPLAYS * len(calls))
