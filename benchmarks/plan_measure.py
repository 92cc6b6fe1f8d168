"""Runner of benchmarks.plan_check: one network in one scheme, workloads in turns with measurements of the limits.

The argument is a JSON object with weights, dtype and threads; one JSON line comes out. Of several runs of a workload
the fastest counts, and of the limits around them the higher: what neighbours take from both is least there. With one
thread its own CPU time counts instead of the time that passes, so that a machine that is not quiet says something too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from twofold.api import LLM
from twofold.bench.speed import peak_memory_bytes, read_and_decode

STEPS = 32
DEPTH = 1024
TASKS = ((1, 1, 3), (1, 8, 2), (512, 1, 2), (DEPTH, 1, 1))
"""Prompt tokens, sequences and runs."""
LIMITS = """
import json, sys
from twofold.backends.cpu.ops import load_native
from twofold.bench.floats import measure_float
module, threads = load_native(), int(sys.argv[1])
native = module.Native()
read, int8, int4 = module.measure_read(2**30, threads), native.measure_int8(threads), native.measure_int4(threads)
print(json.dumps([read, int8, measure_float(), int4]))
"""


def measure_limits(threads: int) -> list[float]:
    """Bytes read, int8, float32 and int4 operations a second, in a process of its own: its buffer must not count."""
    command = [sys.executable, "-c", LIMITS, str(threads)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: list[float] = json.loads(done.stdout)
    return found


def run_task(llm: LLM, prompt: int, sequences: int, runs: int, threads: int) -> dict[str, Any]:
    """The fastest of some runs, and the higher limits of those before and after them."""
    rates, limits = [], [measure_limits(threads)]
    clock = time.process_time if threads == 1 else time.perf_counter
    for run in range(runs):
        rates.append(read_and_decode(llm, prompt, sequences, STEPS, run, clock=clock))
    limits.append(measure_limits(threads))
    fastest = [max(column) for column in zip(*rates, strict=True)]
    highest = [max(column) for column in zip(*limits, strict=True)]
    return {"prompt": prompt, "sequences": sequences, "rates": fastest, "limits": highest}


def main() -> None:
    """Measure and print."""
    asked: dict[str, Any] = json.loads(sys.argv[-1])
    context = DEPTH + STEPS + 1
    llm = LLM(
        asked["weights"],
        dtype=asked["dtype"],
        context=context,
        max_sequences=8,
        guess_tokens=0,
        threads=asked["threads"],
    )
    read_and_decode(llm, 16, 1, 1, 0)
    llm.settle()
    found = [run_task(llm, *task, asked["threads"]) for task in TASKS]
    kv_dtype = llm.loaded.settings.kv_cache_dtype
    print(json.dumps({"kv_dtype": kv_dtype, "context": context, "peak_bytes": peak_memory_bytes(), "found": found}))


if __name__ == "__main__":
    main()
