"""Runner of benchmarks.plan_check: one network in one scheme, workloads in turns with measurements of the limits.

The argument is a JSON object with weights and dtype; one JSON line comes out. Of several runs of a workload the fastest
counts, and of the limits around them the highest: what neighbours take from both is least there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from twofold.api import LLM
from twofold.bench.speed import peak_memory_bytes, read_and_decode

STEPS = 24
DEPTH = 2048
TASKS = ((1, 1, 4), (1, 8, 3), (512, 1, 3), (DEPTH, 1, 2))
"""Prompt tokens, sequences and runs."""
LIMITS = """
import json
from twofold.backends.cpu import machine
from twofold.bench.floats import measure_float
print(json.dumps([machine.measure_read(2**30), machine.measure_int8(), measure_float()]))
"""


def measure_limits() -> list[float]:
    """Bytes read, int8 and float32 operations per second, in a process of its own: the buffer must not count here."""
    done = subprocess.run([sys.executable, "-c", LIMITS], check=True, capture_output=True, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def run_task(llm: LLM, prompt: int, sequences: int, runs: int) -> dict[str, Any]:
    """The fastest of some runs, and the highest limits before, between and after them."""
    rates, limits = [], [measure_limits()]
    for run in range(runs):
        rates.append(read_and_decode(llm, prompt, sequences, STEPS, run))
        limits.append(measure_limits())
    fastest = [max(column) for column in zip(*rates, strict=True)]
    highest = [max(column) for column in zip(*limits, strict=True)]
    return {"prompt": prompt, "sequences": sequences, "rates": fastest, "limits": highest}


def main() -> None:
    """Measure and print."""
    asked: dict[str, Any] = json.loads(sys.argv[-1])
    context = DEPTH + STEPS + 1
    llm = LLM(asked["weights"], dtype=asked["dtype"], context=context, max_sequences=8, guess_tokens=0)
    read_and_decode(llm, 16, 1, 1, 0)
    found = [run_task(llm, *task) for task in TASKS]
    kv_dtype = llm.loaded.settings.kv_cache_dtype
    print(json.dumps({"kv_dtype": kv_dtype, "context": context, "peak_bytes": peak_memory_bytes(), "found": found}))


if __name__ == "__main__":
    main()
