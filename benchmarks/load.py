"""Streams a large generated checkpoint into packed weights and tells time, rate and peak memory.

python -m benchmarks.load --layers 6    4.3 GB of bfloat16 weights
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.networks import SCOUT_MINI, write_network
from benchmarks.results import write_result
from twofold.config import DTYPES

PROGRAM = """
import json, sys, time
from pathlib import Path
from twofold.backends.cpu.ops import CpuOps
from twofold.models.registry import read_architecture
from twofold.quant.schemes import scheme
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.load import load, planned_bytes
from twofold.weights.packed_file import PackedFile, read_packed, write_packed

def high_water():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

folder, dtype = Path(sys.argv[1]), sys.argv[2]
before = high_water()
start = time.perf_counter()
checkpoint = Checkpoint.open(folder)
architecture = read_architecture(read_json(folder, "config.json"))
targets, formats, packer = architecture.targets(checkpoint.names), scheme(dtype), CpuOps().packer
weights = load(checkpoint, targets, formats, packer, None)
seconds, peak = time.perf_counter() - start, high_water()
path = folder / f"{dtype}.twofold"
write_packed(path, targets, formats, weights, dtype)
del weights
start = time.perf_counter()
read_packed(PackedFile.open(path), targets, formats, packer)
again = time.perf_counter() - start
path.unlink()
print(json.dumps({"dtype": dtype, "seconds": round(seconds, 2), "packed_bytes": planned_bytes(targets, formats),
                  "peak_bytes": peak, "before_bytes": before, "from_packed_file_seconds": round(again, 2)}))
"""


def measure(folder: Path, dtype: str, checkpoint_bytes: int) -> dict[str, Any]:
    """Load in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(folder), dtype]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found["checkpoint_bytes"] = checkpoint_bytes
    found["read_gb_per_s"] = round(checkpoint_bytes / found["seconds"] / 1e9, 2)
    found["above_packed_mib"] = round((found["peak_bytes"] - found["packed_bytes"]) / 2**20)
    return found


def main() -> None:
    """Measure every dtype and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="layers of the generated network")
    parser.add_argument("--folder", type=Path, default=Path("build/scout-mini-part"), help="where to write it")
    parser.add_argument("--dtype", nargs="*", default=list(DTYPES), choices=DTYPES, help="which schemes")
    arguments = parser.parse_args()
    size = write_network({**SCOUT_MINI, "num_hidden_layers": arguments.layers}, arguments.folder)
    print(f"checkpoint: {size / 1e9:.2f} GB")
    figures = []
    for dtype in arguments.dtype:
        figures.append(measure(arguments.folder, dtype, size))
        print(
            "{dtype}: {seconds} s, {read_gb_per_s} GB/s read, {above_packed_mib} MiB above the packed size; "
            "from a packed file {from_packed_file_seconds} s".format(**figures[-1])
        )
    print(write_result("load", f"python -m benchmarks.load --layers {arguments.layers}", figures))


if __name__ == "__main__":
    main()
