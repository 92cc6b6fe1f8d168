"""Sets the plan's memory and speed against measurements on this machine: both benchmark networks, three schemes.

python -m benchmarks.plan_check                                   about ten minutes on a quiet machine with two cores
python -m benchmarks.plan_check --networks llama-1b --schemes w4a8
python -m benchmarks.plan_check --threads 1                       by CPU time, where others are at work too

Each network runs in each scheme in a process of its own (benchmarks.plan_measure), workloads in turns with measurements
of the machine's limits; the plan gets these limits and nothing else. The weights are made under --folder if they are
not there (11 GB). Run it on a quiet machine: the share of the cores that others took is told and kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS, write_network
from benchmarks.plan_points import check_points, predicted_memory
from benchmarks.results import write_result
from twofold.backends.cpu import machine
from twofold.bench.efficiency import own_efficiency
from twofold.bench.quiet import LOUD, others_share, read_clock

SCHEMES = ("w4a8", "w8a8", "bf16")
MEMORY_ERROR, DECODE_ERROR = 0.05, 0.20
"""What a plan may be off: memory, and decode of one sequence."""


def measure(network: str, scheme: str, folder: Path, threads: int) -> dict[str, Any]:
    """Rates, limits and peak memory of one network in one scheme."""
    weights = folder / network
    write_network(NETWORKS[network], weights)
    before = read_clock()
    asked = {"weights": str(weights), "dtype": scheme, "threads": threads}
    command = [sys.executable, "-m", "benchmarks.plan_measure", json.dumps(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    share = others_share(before, read_clock(), os.cpu_count() or 1)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"network": network, "dtype": scheme, "threads": threads, "others_share": round(share, 3), **found}


def compare(figure: dict[str, Any]) -> list[dict[str, Any]]:
    """Every prediction beside what was measured; `error` is (predicted - measured) / measured."""
    shares = own_efficiency().shares
    pairs = [
        (f"{point.kind}, prompt {point.prompt}, {point.sequences} sequences", point.measured, point.predicted(shares))
        for point in check_points("", {"figures": [figure]})
    ]
    memory = predicted_memory(figure["network"], figure["dtype"], figure["context"], shares)
    pairs.append(("memory, bytes", float(figure["peak_bytes"]), memory))
    return [
        {"name": name, "measured": measured, "predicted": predicted, "error": predicted / measured - 1.0}
        for name, measured, predicted in pairs
    ]


def is_kept(item: dict[str, Any]) -> bool:
    """Whether a comparison is within what is promised; True for figures without a promise."""
    promised = {"decode,": DECODE_ERROR, "memory,": MEMORY_ERROR}.get(item["name"].split()[0])
    return promised is None or abs(item["error"]) <= promised


def show(figure: dict[str, Any]) -> None:
    """One network in one scheme, as lines."""
    loud = f"  NOT QUIET: others took {figure['others_share']:.0%} of the cores"
    print(f"{figure['network']} {figure['dtype']}{loud if figure['others_share'] > LOUD else ''}")
    for item in figure["compared"]:
        mark = "" if is_kept(item) else "  MISSED"
        print(f"  {item['name']:34} measured {item['measured']:14,.1f}  predicted {item['predicted']:14,.1f}"
              f"  {item['error']:+.0%}{mark}", flush=True)  # fmt: skip


def main() -> None:
    """Measure, compare, keep the result; exit status 1 where a promise was missed on a quiet machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="llama-1b,scout-mini", help="comma-separated")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="where the networks are or go")
    parser.add_argument("--threads", type=int, help="1 counts CPU time, for machines that are not quiet [default: all]")
    arguments = parser.parse_args()
    threads = arguments.threads or machine.cpu().threads
    figures = []
    for network in arguments.networks.split(","):
        for scheme in arguments.schemes.split(","):
            figure = measure(network, scheme, arguments.folder, threads)
            figures.append({**figure, "compared": compare(figure)})
            show(figures[-1])
    options = f"--networks {arguments.networks} --schemes {arguments.schemes} --threads {threads}"
    print(write_result("plan-check", f"python -m benchmarks.plan_check {options}", figures))
    quiet = [figure for figure in figures if figure["others_share"] <= LOUD]
    sys.exit(not all(is_kept(item) for figure in quiet for item in figure["compared"]))


if __name__ == "__main__":
    main()
