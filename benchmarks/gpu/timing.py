"""Time on a device: calls captured in a graph, which is how a step of decoding runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Call = Callable[[], object]
COMPILERS = 12
REPLAYS = 5


def compile_all(calls: Sequence[Call]) -> list[str]:
    """Run every call once, several at a time, so that their kernels are compiled side by side; what failed."""
    failures = []
    with ThreadPoolExecutor(COMPILERS) as pool:
        first = [pool.submit(call) for call in calls[:1]]
        wait(first)  # alone: it starts the driver
        for future in first + [pool.submit(call) for call in calls[1:]]:
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


Check = tuple[str, Callable[[], float], float]
"""A name, what gives the error, and the largest error allowed."""


def errors_of(checks: Sequence[Check]) -> dict[str, float | str]:
    """The error of every check, or what went wrong: a kernel that does not compile must not hide what the others do."""
    found: dict[str, float | str] = {}

    def attempt(name: str, measure: Callable[[], float]) -> None:
        try:
            found[name] = measure()
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {str(failure)[:300]}"

    compile_all([partial(attempt, name, measure) for name, measure, _ in checks])
    return found


@dataclass(frozen=True)
class Point:
    """Something to measure: calls that together outgrow the cache, and what one of them reads or computes."""

    kernel: str
    shape: str
    configuration: str
    calls: list[Call]
    bytes: float = 0.0
    flops: float = 0.0

    def result(self) -> dict[str, Any]:
        """The figures."""
        microseconds = graph_us(self.calls)
        result = {
            "kernel": self.kernel,
            "shape": self.shape,
            "configuration": self.configuration,
            "microseconds": round(microseconds, 2),
        }
        if self.flops:
            return {**result, "tflop_per_s": round(self.flops / microseconds / 1e6, 1)}
        return {**result, "gb_per_s": round(self.bytes / microseconds / 1e3, 1)}


def measured(points: Iterable[Point]) -> Iterator[dict[str, Any]]:
    """Figures of all points, compiled side by side; one that fails says so, and the others are still measured."""
    ready = list(points)
    for failure in compile_all([point.calls[0] for point in ready]):
        yield {"kernel": "compiling", "failed": failure}
    for point in ready:
        try:
            yield point.result()
        except Exception as failure:
            yield {"kernel": point.kernel, "shape": point.shape, "failed": str(failure)[:200]}
    ready.clear()
    torch.cuda.empty_cache()
