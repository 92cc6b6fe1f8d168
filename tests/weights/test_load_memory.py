"""What loading adds to the memory of a process; each measurement runs in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from .make import llama_shapes, write_checkpoint

MEASURE = """
import sys
from pathlib import Path
from twofold.ops.reference import ReferencePacker
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.load import load, planned_bytes
from tests.weights.make import plain_targets

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

checkpoint = Checkpoint.open(sys.argv[1])
targets = plain_targets({name: checkpoint.shape(name) for name in checkpoint.names})
formats = {"norm": "f32", "dense": "bf16", "expert": "bf16"}
before = peak()
weights = load(checkpoint, targets, formats, ReferencePacker())
print(checkpoint.size_bytes, planned_bytes(targets, formats), peak() - before)
"""


def measure(folder: Path) -> tuple[int, int, int]:
    """Bytes of the source, of the packed weights, and by how much the peak grew, in a process of its own."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], env=environment, check=True, capture_output=True, text=True
    )
    source, planned, grown = map(int, done.stdout.split())
    return source, planned, grown


def test_reading_does_not_add_the_file_to_the_memory_used(tmp_path: Path) -> None:
    shapes = llama_shapes(layers=6, hidden=1024, width=4096, vocabulary=16000)
    source, planned, grown = measure(write_checkpoint(tmp_path, shapes, shards=3))
    assert source > 250e6
    # Beyond the weights: one piece of 16 MiB mapped, a second while pieces overlap, some pages of the interpreter.
    assert grown < planned + 40e6, f"{grown / 1e6:.0f} MB for {planned / 1e6:.0f} MB of weights"


def test_transposed_experts_are_mapped_one_at_a_time(tmp_path: Path) -> None:
    source, planned, grown = measure(write_checkpoint(tmp_path, {"experts": (16, 2048, 4096)}))
    assert source > 250e6
    # One expert is 16.8 MB.
    assert grown < planned + 40e6, f"{grown / 1e6:.0f} MB for {planned / 1e6:.0f} MB of weights"
