"""Fits what our kernels reach of a machine's limits to the result files, and writes it where `twofold plan` reads it.

python -m benchmarks.calibrate                     all results of benchmarks/results that have rates and limits
python -m benchmarks.calibrate --results A B --dry-run

Every share is fitted in turns so that the mean of |log(predicted / measured)|, weighted by how quiet the machine was,
is least; the spread that is written is what remains. Needs no weights and no quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plan_points import Point, counted, read_points
from benchmarks.results import FOLDER
from twofold.bench import efficiency
from twofold.bench.efficiency import FIGURES, Efficiency, Spread, to_toml
from twofold.bench.roofline import Family, Shares, activation_bytes, cache_pool_bytes

FITTED: dict[Family, str] = {"int4": "w4a8", "int8": "w8a8", "float": "bf16"}
"""Families of formats that are fitted, and the scheme whose measurements say something about them."""
START = Shares(
    read=dict.fromkeys(("int4", "int8", "fp8", "float"), 0.9),
    few=dict.fromkeys(("int4", "int8", "fp8", "float"), 0.4),
    many=dict.fromkeys(("int4", "int8", "fp8", "float"), 0.5),
    kv=0.6,
    attention=0.5,
    layer_s=5e-5,
    working_bytes=1.2e8,
)
FACTORS = np.exp(np.linspace(math.log(0.8), math.log(1.25), 21))
MOST_SHARE = {"read": 1.05, "few": 1.0, "many": 1.0, "kv": 1.05, "attention": 1.0, "layer_s": 1e-3}
"""A share above 1 says that the limit was measured too low; layer_s is seconds."""
ROUNDS = 12


def loss(points: Sequence[Point], shares: Shares) -> float:
    """Weighted mean of |log(predicted / measured)|."""
    weights = [point.weight for point in points]
    errors = [abs(math.log(point.predicted(shares) / point.measured)) for point in points]
    return float(np.average(errors, weights=weights))


def fit(points: Sequence[Point]) -> Shares:
    """Shares that fit best, one after another, several rounds."""
    shares, schemes = START, {point.dtype for point in points}
    families = [family for family, scheme in FITTED.items() if scheme in schemes]
    for _ in range(ROUNDS):
        for name in ("read", "few", "many"):
            for family in families:
                shares = best(points, shares, name, family)
        for name in ("kv", "attention", "layer_s"):
            shares = best(points, shares, name, None)
    fp8 = {name: {**getattr(shares, name), "fp8": getattr(shares, name)["float"]} for name in ("read", "few", "many")}
    return replace(shares, **fp8)


def best(points: Sequence[Point], shares: Shares, name: str, family: str | None) -> Shares:
    """The shares with one of them changed by the factor that fits best; 1 where none is better."""
    found, least = shares, loss(points, shares)
    for factor in FACTORS:
        now = getattr(shares, name)
        old = now if family is None else now[family]
        value = min(MOST_SHARE[name], old * factor)
        changed = replace(shares, **{name: value if family is None else {**now, family: value}})
        tried = loss(points, changed)
        if tried < least - 1e-6:
            found, least = changed, tried
    return found


def spread(ratios: Sequence[float]) -> Spread:
    """10th and 90th percentile of measured over predicted."""
    low, high = np.quantile(ratios, [0.1, 0.9]) if ratios else (0.5, 2.0)
    return Spread(low=round(float(low), 3), high=round(float(high), 3), count=len(ratios))


def memory_rests(paths: Sequence[Path]) -> list[tuple[float, float]]:
    """Bytes of each measured process beyond weights, cache and activations, and all of its bytes."""
    found = []
    for path in paths:
        raw: dict[str, Any] = json.loads(path.read_text())
        for figure in raw["figures"]:
            for peak, context, name, dtype in peaks(raw["benchmark"], figure):
                network = counted(name, dtype)
                known = network.whole.total_bytes + cache_pool_bytes(network, 1, context, "bf16")
                found.append((peak - known - activation_bytes(network), float(peak)))
    return found


def peaks(benchmark: str, figure: dict[str, Any]) -> list[tuple[int, int, str, str]]:
    """Peak memory, tokens of the longest sequence, network and scheme of a figure that has them."""
    if benchmark == "plan-check":
        return [(figure["peak_bytes"], figure["context"], figure["network"], figure["dtype"])]
    if benchmark != "peers":
        return []
    ours = [item for item in figure.get("engines", ()) if item["engine"] == "twofold" and "peak_memory_bytes" in item]
    return [(item["peak_memory_bytes"], 4096 + 33, figure["network"], figure["dtype"]) for item in ours]


def calibrate(paths: Sequence[Path]) -> Efficiency:
    """Fit, and tell what remains."""
    points = list(read_points(paths))
    shares = fit(points)
    rests = memory_rests(paths)
    shares = replace(shares, working_bytes=float(np.median([rest for rest, _ in rests])))
    ratios: dict[str, list[float]] = {name: [] for name in FIGURES}
    for point in points:
        ratios[point.kind].append(point.measured / point.predicted(shares))
    ratios["memory"] = [peak / (peak - rest + shares.working_bytes) for rest, peak in rests]
    sources = tuple(sorted({point.source for point in points}))
    return Efficiency(shares=shares, spreads={name: spread(found) for name, found in ratios.items()}, sources=sources)


def main() -> None:
    """Calibrate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="*", help="result files [default: all that fit]")
    parser.add_argument("--dry-run", action="store_true", help="print instead of writing")
    arguments = parser.parse_args()
    usual = sorted([*FOLDER.glob("*-peers-*.json"), *FOLDER.glob("*-plan-check-*.json")])
    found = calibrate(arguments.results or usual)
    text = to_toml(found)
    print(text)
    if not arguments.dry_run:
        path = Path(efficiency.__file__).with_name("efficiency.toml")
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
