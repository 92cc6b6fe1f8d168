"""Medians of runs and of paired ratios, with intervals that keep their promise for a handful of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from twofold.bench.proof.model import METRICS, ROLES, Interval, Role, Run

RESAMPLES = 2000
OUTER = 0.005
"""Bounds are these quantiles of resampled medians. Of six runs or more they hold the true median in at least 95 of 100
cases; the usual 0.025 hold it in 91 to 94 (simulated: normal, Student t with 3 degrees, one run in five disturbed)."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent of them do not exceed (nearest rank). Of no values: 0."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)] if ordered else 0.0


def interval(values: Sequence[float], seed: int) -> Interval:
    """The median, and bounds from medians of runs drawn with replacement. One value has no width: look at the runs."""
    found = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    medians = np.median(found[picks], axis=1)
    low, high = np.quantile(medians, [OUTER, 1 - OUTER], method="nearest")
    return Interval(median=float(np.median(found)), low=float(low), high=float(high))


def figures_of(runs: Sequence[Run], seed: int) -> dict[Role, dict[str, Interval]]:
    """Each figure of each contender over its runs."""
    found: dict[Role, dict[str, Interval]] = {}
    for role in ROLES:
        own = [run.figures for run in runs if run.role == role]
        names = [name for name in METRICS if any(name in figures for figures in own)]
        found[role] = {name: interval([item[name] for item in own if name in item], seed) for name in names}
    return found


def ratios_of(runs: Sequence[Run], seed: int) -> dict[str, Interval]:
    """How many times as good the candidate is, by figure: ratios within rounds, so that a slow minute hits both.

    Above 1 the candidate is better, whichever way the figure goes.
    """
    found = {}
    for name in METRICS:
        ratios = [ratio for _, ratio in ratios_by_round(runs, name)]
        if ratios:
            found[name] = interval(ratios, seed)
    return found


def others_of(runs: Sequence[Run]) -> float:
    """Share of the cores that other programs took: the larger of the contenders' medians; 0 where nobody knows."""
    known = [[run.others_share for run in runs if run.role == role and run.others_share is not None] for role in ROLES]
    return max((float(np.median(part)) for part in known if part), default=0.0)


def ratios_by_round(runs: Sequence[Run], name: str) -> list[tuple[int, float]]:
    """Round and ratio, for every round in which both contenders have the figure."""
    by_round: dict[int, dict[Role, Mapping[str, float]]] = {}
    for run in runs:
        by_round.setdefault(run.round, {})[run.role] = run.figures
    found = []
    for number, both in sorted(by_round.items()):
        old, new = (both.get(role, {}).get(name, 0.0) for role in ROLES)
        above, below = (new, old) if METRICS[name].more_is_better else (old, new)
        if above > 0 and below > 0:
            found.append((number, above / below))
    return found
