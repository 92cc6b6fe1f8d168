"""What a decoding step costs the host beside the network: choosing rows, their arrays, draws, taking over the tokens.

python -m benchmarks.host                              1, 8, 64 and 256 sequences; arrays for the CPU and for a GPU
python -m benchmarks.host --sequences 64 --rounds 20 --no-result

The network computes nothing: its logits, of few ids, are there already. So this is how long a device waits between two
steps, less its driver. Draws are those of each backend, where a GPU's are made by torch on the CPU. Kinds take turns;
the best round counts. Without the extra `gpu` (torch, triton) there is the CPU's alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.arguments import positive
from benchmarks.results import write_result
from twofold.backends.cpu.ops import CpuOps
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import SamplingParams
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Batch, CacheShape

SHAPE = CacheShape(chunks=(256, None), kv_heads=1, head_size=2)
VOCABULARY = 64
CONTEXT = 8192
STEP_TOKENS = 8192
STEPS = 40
DRAWS = {"greedy": SamplingParams(temperature=0.0), "drawn": SamplingParams(temperature=0.8, top_p=0.9, seed=1)}


def for_cpu() -> tuple[Any, Callable[..., Any]]:
    """The native backend, and a network that knows its logits."""
    logits_RV = np.random.default_rng(0).standard_normal((STEP_TOKENS, VOCABULARY)).astype(np.float32)
    return CpuOps(), lambda ops, batch, cache: logits_RV[: len(batch.rows_R)]


def for_gpu() -> tuple[Any, Callable[..., Any]]:
    """Ops that bring decoding batches to where a graph looks for them, in torch's memory on the CPU."""
    import torch

    from twofold.backends.gpu.batches import is_decode
    from twofold.backends.gpu.fused import KernelOps
    from twofold.backends.gpu.graphs import Slots

    torch.set_num_threads(1)
    slots = Slots(torch.device("cpu"))

    class Placed(KernelOps):
        """As on a device that replays graphs."""

        def upload(self, batch: Batch) -> Any:
            return slots.place(batch) if is_decode(batch) else super().upload(batch)

    logits_RV = torch.randn(STEP_TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return Placed("cpu", ReferenceOps().packer), lambda ops, batch, cache: logits_RV[: len(batch.host.rows_R)]


KINDS = {"cpu": for_cpu, "gpu": for_gpu} if find_spec("triton") else {"cpu": for_cpu}


def decoding(kind: str, params: SamplingParams, sequences: int, depth: int) -> Engine:
    """An engine in which so many sequences, of about so many tokens, decode for long."""
    ops, forward = KINDS[kind]()
    layout = plan_layout(SHAPE.chunk, sequences * CONTEXT, STEP_TOKENS, sequences)
    limits = EngineLimits(
        context=CONTEXT, vocabulary=VOCABULARY, step_tokens=STEP_TOKENS, max_sequences=sequences, prefix_cache=True
    )
    engine = Engine(ops, forward, SHAPE, layout, limits)
    for number in range(sequences):
        engine.add([number % VOCABULARY] * (depth + number % 32), params)
    while not (engine.latest and engine.latest.decoding == sequences):
        engine.step()
    return engine


def step_us(engine: Engine) -> float:
    """Microseconds a step, over STEPS of them."""
    start = time.perf_counter()
    for _ in range(STEPS):
        engine.step()
    return 1e6 * (time.perf_counter() - start) / STEPS


def measure(sequences: int, depth: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds a step of every kind and way of drawing."""
    engines = {(kind, draw): decoding(kind, DRAWS[draw], sequences, depth) for kind in KINDS for draw in DRAWS}
    found: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
    for _ in range(rounds):
        for key, engine in engines.items():
            found[key].append(step_us(engine))
    return [
        {"arrays": kind, "draws": draw, "sequences": sequences, "depth": depth, "step_us": round(min(times), 1)}
        for (kind, draw), times in found.items()
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=positive, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--depth", type=positive, default=1000, help="tokens of each sequence (default: 1000)")
    parser.add_argument("--rounds", type=positive, default=10)
    parser.add_argument("--no-result", action="store_true", help="print only")
    arguments = parser.parse_args()
    longest = arguments.depth + STEPS * arguments.rounds + max(arguments.sequences)
    if longest > CONTEXT:
        parser.error(f"sequences would grow to {longest} tokens; at most {CONTEXT} fit: fewer --rounds or less --depth")
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = parse()
    figures: list[dict[str, Any]] = []
    for sequences in arguments.sequences:
        for row in measure(sequences, arguments.depth, arguments.rounds):
            figures.append(row)
            print(
                f"{row['sequences']:4d} sequences  {row['arrays']}  {row['draws']:6s}  {row['step_us']:9.1f} us a step"
            )
    if not arguments.no_result:
        print(write_result("host", "python -m benchmarks.host " + shlex.join(sys.argv[1:]), figures))


if __name__ == "__main__":
    main()
