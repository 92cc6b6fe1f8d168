"""Measurements that a plan can be set against, from result files: what ran, how fast, what the machine could do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS
from benchmarks.peers.summary import FIGURES
from twofold.bench.roofline import Limits, Network, Shares, build_network, decode_seconds, memory_bytes, prefill_seconds
from twofold.models.registry import read_architecture
from twofold.ops.types import KvDtype
from twofold.quant.schemes import scheme

FLOAT_OVER_INT8 = {"avx512bf16": 0.5, "avx512vnni": 0.25, "avx2": 0.5}
"""Float over int8 operations per instruction, for result files that did not measure both: 16 products against 64 with
AVX-512 VNNI, 32 of bf16 with AVX512-BF16, 8 against 16 with AVX2."""
STEPS = 32
"""Tokens decoded for each rate; depth grows by half of them on average."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured rate, in tokens per second of all sequences. kind: a key of efficiency.FIGURES.

    weight: the share of the cores that nobody else took meanwhile; 1 where CPU time was measured.
    """

    source: str
    network: str
    dtype: str
    kind: str
    prompt: int
    sequences: int
    measured: float
    limits: Limits
    weight: float

    def predicted(self, shares: Shares, kv_dtype: KvDtype = "bf16") -> float:
        """What the plan says, in the same unit."""
        network = counted(self.network, self.dtype)
        if self.kind == "prefill":
            return self.prompt / prefill_seconds(network, self.limits, shares, self.prompt)
        depth = self.prompt + STEPS // 2
        return self.sequences / decode_seconds(network, self.limits, shares, self.sequences, depth, kv_dtype)


@cache
def counted(name: str, dtype: str) -> Network:
    """One of the benchmark networks in a scheme."""
    architecture = read_architecture(NETWORKS[name])
    sizes = (architecture.layers, architecture.hidden, architecture.config.heads)
    experts = (architecture.expert_count, architecture.active_experts)
    return build_network(architecture.targets(()), scheme(dtype), sizes, experts, architecture.cache_shape)


def predicted_memory(name: str, dtype: str, context: int, shares: Shares) -> float:
    """Bytes of a process with one sequence of so many tokens."""
    return memory_bytes(counted(name, dtype), shares, 1, context, "bf16")


def limits_of(read: float, int8: float, floats: float, int4: float | None = None) -> Limits:
    """Measured limits; there are no products of float8 here. Early results have none of four-bit weights."""
    return Limits(
        read_bytes_per_s=read,
        int8_ops_per_s=int8,
        int4_ops_per_s=int4 or int8,
        float_ops_per_s=floats,
        fp8_ops_per_s=floats,
    )


def read_points(paths: Iterable[Path]) -> Iterator[Point]:
    """The points of all result files that have some."""
    for path in paths:
        raw = json.loads(path.read_text())
        if raw["benchmark"] == "peers":
            yield from peers_points(path.name, raw)
        elif raw["benchmark"] == "plan-check":
            yield from check_points(path.name, raw)


def peers_points(source: str, raw: dict[str, Any]) -> Iterator[Point]:
    """twofold's own rates beside other engines, with the medians of the limits."""
    for figure in raw["figures"]:
        found = next((item for item in figure.get("engines", ()) if item["engine"] == "twofold"), None)
        if found is None or "workloads" not in found or figure["network"] not in ("scout-mini", "llama-1b"):
            continue
        middle = {name: statistics.median(item[name] for item in figure["limits"]) for name in figure["limits"][0]}
        int8 = middle["int8_ops_per_s"]
        floats = int8 * FLOAT_OVER_INT8[raw["machine"]["isa"]]
        limits = limits_of(middle["read_bytes_per_s"], int8, floats, middle.get("int4_ops_per_s"))
        weight = 1.0 - found["others_share"]["median"]
        for item in FIGURES:
            if "tokens_per_s" in found["workloads"].get(item.name, ()) and not item.task.is_alike:
                yield Point(
                    source=source,
                    network=figure["network"],
                    dtype=figure["dtype"],
                    kind=kind_of(item.kind, item.task.prompt, item.task.sequences),
                    prompt=item.task.prompt,
                    sequences=item.task.sequences,
                    measured=found["workloads"][item.name]["tokens_per_s"]["median"],
                    limits=limits,
                    weight=weight,
                )


def check_points(source: str, raw: dict[str, Any]) -> Iterator[Point]:
    """Rates measured for a comparison with a plan, each with the limits around it.

    Where CPU time was measured, with the highest limits of the run: neighbours slow the limits, but not that time.
    """
    for figure in raw["figures"]:
        highest = [max(column) for column in zip(*(item["limits"] for item in figure["found"]), strict=True)]
        for item in figure["found"]:
            prompt, sequences = item["prompt"], item["sequences"]
            for phase, rate in zip(("prefill", "decode"), item["rates"], strict=True):
                if phase == "prefill" and prompt * sequences < 128:
                    continue
                yield Point(
                    source=source,
                    network=figure["network"],
                    dtype=figure["dtype"],
                    kind=kind_of(phase, prompt, sequences),
                    prompt=prompt,
                    sequences=sequences,
                    measured=rate,
                    limits=limits_of(*(highest if figure["threads"] == 1 else item["limits"])),
                    weight=1.0 if figure["threads"] == 1 else 1.0 - figure["others_share"],
                )


def kind_of(phase: str, prompt: int, sequences: int) -> str:
    """The figure a workload belongs to."""
    if phase == "prefill":
        return "prefill"
    return "several" if sequences > 1 else "depth" if prompt >= 1024 else "decode"
