"""Whether it is proven: the ratio's lower bound reaches the target, and the answers are as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twofold.bench.proof.model import METRICS, Interval, Quality, Run, Verdict
from twofold.bench.proof.statistics import others_of

LEAST_ROUNDS = 6
"""Below this an interval promises more than it holds (bench/proof/statistics.py)."""
MOST_OTHERS = 0.25
"""From this share of the cores on, other programs decide the ratio: beside a load of five on two cores transformers,
whose threads wait for one another, was 52 times slower than twofold; on the same machine alone 9 times."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a proof must show. metric: which ratio; target: what its lower bound must reach.

    most_kl (nats), least_agreement: where probabilities could be compared; least_overlap: where only words could;
    most_lost: by how much the share of right answers may fall.
    """

    metric: str = "tokens_per_s"
    target: float = 2.0
    most_kl: float = 0.05
    least_agreement: float = 0.9
    least_overlap: float = 0.75
    most_lost: float = 0.02

    def of_quality(self, quality: Quality) -> dict[str, float]:
        """What is demanded of the figures of quality, by their names; lost: of the share of right answers."""
        lost = {} if quality.expected_baseline is None else {"lost": self.most_lost}
        if quality.kind == "scored":
            return {"kl": self.most_kl, "agreement": self.least_agreement, **lost}
        return lost or {"overlap": self.least_overlap}


def judge(demands: Demands, ratios: Mapping[str, Interval], quality: Quality, runs: Sequence[Run]) -> Verdict:
    """The verdict, with every reason against it."""
    ratio = ratios.get(demands.metric, Interval(median=0.0, low=0.0, high=0.0))
    reasons = [*speed_reasons(demands, ratio, runs), *quality_reasons(demands, quality)]
    errors = sum(run.errors for run in runs)
    if errors:
        reasons.append(f"{errors} requests failed")
    return Verdict(
        proven=not reasons, metric=demands.metric, ratio=ratio, target=demands.target, reasons=tuple(reasons)
    )


def speed_reasons(demands: Demands, ratio: Interval, runs: Sequence[Run]) -> list[str]:
    """What the ratio lacks."""
    title = METRICS[demands.metric].title.lower()
    if not ratio.median:
        return [f"{title} could not be measured of both"]
    reasons = []
    if ratio.low < demands.target:
        reasons.append(
            f"{title}: {ratio.median:.2f}x, between {ratio.low:.2f} and {ratio.high:.2f}; the lower bound must reach "
            f"{demands.target:g}"
        )
    rounds = len({run.round for run in runs})
    if rounds < LEAST_ROUNDS:
        reasons.append(f"{rounds} rounds were run; {LEAST_ROUNDS} are needed for an interval that holds")
    others = others_of(runs)
    if others > MOST_OTHERS:
        reasons.append(
            f"other programs took {others:.0%} of this machine's cores, which slows contenders unequally; at most "
            f"{MOST_OTHERS:.0%} are allowed"
        )
    return reasons


def quality_reasons(demands: Demands, quality: Quality) -> list[str]:
    """What the answers lack. Right answers count first: where they are known, equal words are not asked for."""
    if quality.kind == "none":
        return [f"quality could not be judged: {quality.reason}"]
    reasons = []
    old, new = quality.expected_baseline, quality.expected_candidate
    if old is not None and new is not None and new < old - demands.most_lost:
        reasons.append(f"{new:.1%} of the answers are right, {old:.1%} of the baseline's")
    if quality.kind == "scored" and quality.kl is not None and quality.agreement is not None:
        if quality.kl > demands.most_kl:
            reasons.append(f"KL divergence is {quality.kl:.4f} nats; at most {demands.most_kl:g} are allowed")
        if quality.agreement < demands.least_agreement:
            reasons.append(
                f"both prefer the same token at {quality.agreement:.1%} of the positions; "
                f"{demands.least_agreement:.0%} are asked for"
            )
    elif old is None and (quality.overlap or 0.0) < demands.least_overlap:
        reasons.append(
            f"the answers share {quality.overlap or 0.0:.0%} of their words; {demands.least_overlap:.0%} are asked "
            "for. Of another model's answers that says little: put what is expected into the prompt file"
        )
    return reasons
