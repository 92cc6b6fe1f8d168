"""One contender by itself through a workload: the core of a proof without a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twofold.bench.proof.contenders import Spec, running
from twofold.bench.proof.measure import run_round
from twofold.bench.proof.model import Interval
from twofold.bench.proof.prove import WARM_UP, check
from twofold.bench.proof.statistics import figures_of
from twofold.bench.proof.workload import Workload


def measure_alone(
    spec: Spec, workload: Workload, rounds: int, logs: Path, tell: Callable[[str], None]
) -> dict[str, Interval]:
    """Its figures over the rounds, by the names of METRICS. Raises BenchError when it answers nothing."""
    seed = 1
    with running(spec, logs) as contender:
        check(run_round(contender, workload, seed, WARM_UP)[1], contender)
        runs = []
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            run, samples = run_round(contender, workload, seed, number)
            check(samples, contender)
            runs.append(run)
    return figures_of(runs, seed)[spec.role]
