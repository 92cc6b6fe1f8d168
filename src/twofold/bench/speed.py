"""How fast a model runs here: prefill, decode alone, in batches and at depth, with what that asks of the machine."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from twofold.api import LLM, SamplingParams
from twofold.ops.cost import expected_read_bytes

DECODE_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`sequences` prompts of `prompt` tokens each; what is timed is reading them, or `steps` steps after it."""

    kind: str
    sequences: int
    prompt: int

    @property
    def name(self) -> str:
        """What a table calls it."""
        if self.kind == "prefill":
            return f"prefill {self.prompt}"
        depth = f" at depth {self.prompt}" if self.prompt > 1 else ""
        return f"decode{depth}" if self.sequences == 1 else f"decode, {self.sequences} sequences{depth}"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A measured workload: median, slowest and fastest run in tokens per second, and what that means for the machine.

    read_bytes_per_s: weights read (decode only; for experts the number expected to be distinct). ops_per_s:
    multiplications and additions in the weights (prefill only).
    """

    name: str
    tokens_per_s: float
    slowest: float
    fastest: float
    read_bytes_per_s: float | None = None
    ops_per_s: float | None = None


def workloads(context: int) -> list[Workload]:
    """The usual set, as far as the context holds it."""
    room = context - DECODE_STEPS - 1
    found = [Workload(kind="prefill", sequences=1, prompt=size) for size in (128, 512, 4096) if size <= room]
    found += [Workload(kind="decode", sequences=count, prompt=1) for count in (1, 2, 4, 8, 16)]
    return found + [Workload(kind="decode", sequences=1, prompt=size) for size in (1024, 4096) if size <= room]


def measure_all(llm: LLM, chosen: list[Workload], repeats: int, progress: Callable[[str], None]) -> Iterator[Speed]:
    """Measure each workload `repeats` times after a warm-up."""
    for workload in chosen:
        progress(workload.name)
        run_once(llm, workload, seed=0)
        yield summary(llm, workload, [run_once(llm, workload, seed=repeat + 1) for repeat in range(repeats)])


def run_once(llm: LLM, workload: Workload, seed: int) -> float:
    """Tokens per second of one run, on random tokens."""
    if workload.kind == "prefill":
        return read_and_decode(llm, workload.prompt, workload.sequences, 0, seed)[0]
    return read_and_decode(llm, workload.prompt, workload.sequences, DECODE_STEPS, seed)[1]


def read_and_decode(
    llm: LLM,
    prompt: int,
    sequences: int,
    steps: int,
    seed: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    is_alike: bool = False,
) -> tuple[float, float]:
    """Read `sequences` random prompts of `prompt` tokens, then decode `steps` tokens of each.

    Returns the tokens per second of both, by this clock. The first token of each sequence belongs to the reading.
    is_alike: all prompts are one and the same token again and again, which goes through the same experts everywhere.
    """
    random = np.random.default_rng(seed)
    vocabulary = llm.loaded.model.architecture.vocabulary
    params = SamplingParams(temperature=0.0, max_tokens=steps + 1, ignore_eos=True)
    engine = llm.engine
    prompts = random.integers(0, vocabulary, (sequences, prompt))
    if is_alike:
        prompts[:] = prompts[0, 0]
    requests = [engine.add(tokens.tolist(), params) for tokens in prompts]
    start = clock()
    waiting = {request.id for request in requests}
    while waiting:
        waiting -= {event.request_id for event in engine.step()}
    read = clock()
    drawn = 0
    while not engine.is_idle:
        drawn += len(engine.step())
    return sequences * prompt / (read - start), drawn / (clock() - read)


def summary(llm: LLM, workload: Workload, rates: list[float]) -> Speed:
    """Median and spread, and the load on memory or arithmetic behind it."""
    rate = statistics.median(rates)
    model, dtype = llm.loaded.model, llm.loaded.settings.dtype
    read = operations = None
    if workload.kind == "decode":
        step_bytes = expected_read_bytes(model.footprint(dtype), model.architecture.expert_count, workload.sequences)
        read = step_bytes * rate / workload.sequences
    else:
        counted = model.footprint(dtype)
        operations = 2.0 * (counted.read_parameters_per_token - counted.parameters.get("head", 0)) * rate
    return Speed(
        name=workload.name,
        tokens_per_s=rate,
        slowest=min(rates),
        fastest=max(rates),
        read_bytes_per_s=read,
        ops_per_s=operations,
    )


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
