"""Which plots a proof gets, and the sentence under each that says in figures what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twofold.bench.proof import plots
from twofold.bench.proof.axes import figure, percent, plain, short, times
from twofold.bench.proof.model import METRICS, ROLES, Interval, Proof, Quality, Role, Sample
from twofold.bench.proof.statistics import percentile, ratios_by_round
from twofold.bench.proof.svg import Svg

SPEED = "tokens_per_s"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with its title and what it says. drawing: None when there is nothing to draw; then `says` tells why."""

    title: str
    drawing: Svg | None
    says: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The figure of quality that is drawn. best: what the baseline has against itself, by definition."""

    name: str
    title: str
    best: float
    value: float
    limit: float | None

    def write(self, value: float) -> str:
        """As a percentage or in nats, without needless zeros."""
        return f"{100 * value:.4g} %" if self.best else plain(value)


def charts_of(proof: Proof, samples: Sequence[Sample]) -> list[Chart]:
    """All plots but that of cost, in the order of the page."""
    good = [sample for sample in samples if not sample.error]
    first = {role: [1e3 * item.first_s for item in good if item.role == role] for role in ROLES}
    gaps = {role: [1e3 * gap for item in good if item.role == role for gap in item.gaps_s] for role in ROLES}
    return [
        distribution_chart("Time to first token", "time to first token, ms", first),
        distribution_chart("Gaps between tokens", "gap between pieces of text, ms", gaps),
        ratio_chart(proof),
        rounds_chart(proof),
        plane_chart(proof),
        roofline_chart(proof),
    ]


def distribution_chart(title: str, axis: str, values: Mapping[Role, Sequence[float]]) -> Chart:
    """Values in milliseconds."""
    known = {role: own for role, own in values.items() if any(value > 0 for value in own)}
    if not known:
        return Chart(title=title, drawing=None, says="Not measurable here: no answer has such times.")
    parts = [
        f"{role} {figure(percentile(own, 50))} ms and {figure(percentile(own, 99))} ms ({len(own):,} values)"
        for role, own in known.items()
    ]
    missing = "".join(f" The {role} has none." for role in values if role not in known)
    says = f"Half, and 99 of 100, came within: {'; '.join(parts)}.{missing} Further left is better."
    return Chart(title=title, drawing=plots.distribution(known, axis), says=says + zeros(known))


def zeros(values: Mapping[Role, Sequence[float]]) -> str:
    """What to know about values a logarithmic axis cannot show."""
    at_once = {role: sum(value <= 0 for value in own) / len(own) for role, own in values.items()}
    told = [f"{percent(share)} of the {role}'s" for role, share in at_once.items() if share]
    return f" {' and '.join(told)} are 0 (pieces that arrived together) and stand at the left edge." if told else ""


def ratio_chart(proof: Proof) -> Chart:
    """The figure the verdict is about, round by round."""
    name = metric_of(proof)
    title = f"Ratio of every round: {METRICS[name].title.lower()}"
    rounds = [(number + 1, ratio) for number, ratio in ratios_by_round(proof.runs, name)]
    if not rounds:
        return Chart(
            title=title, drawing=None, says="Not measurable here: no round has this figure of both contenders."
        )
    ratios = [ratio for _, ratio in rounds]
    target = proof.verdict.target if proof.verdict else None
    says = (
        f"{len(rounds)} round{'s' if len(rounds) > 1 else ''}, from {times(min(ratios))} to {times(max(ratios))}. "
        "Shaded: the 95 % interval of the median. Points that drift up or down say that the machine changed on the way."
    )
    return Chart(title=title, drawing=plots.ratio_rounds(rounds, proof.ratios.get(name), target), says=says)


def rounds_chart(proof: Proof) -> Chart:
    """The same figure itself, so that a slow minute is seen that hits both."""
    metric, name = METRICS[metric_of(proof)], metric_of(proof)
    values = {
        role: [(run.round + 1, run.figures[name]) for run in proof.runs if run.role == role and name in run.figures]
        for role in ROLES
    }
    title = f"{metric.title}, round by round"
    if not any(values.values()):
        return Chart(title=title, drawing=None, says="Not measurable here: no run has this figure.")
    good = "Higher" if metric.more_is_better else "Lower"
    drawing = plots.figure_rounds(values, metric.unit)
    says = f"{good} is better. Where both fall together the machine was slower, and the ratio is still fair."
    return Chart(title=title, drawing=drawing, says=says)


def metric_of(proof: Proof) -> str:
    """The figure the verdict is about; tokens per second when there is none."""
    return proof.verdict.metric if proof.verdict and proof.verdict.metric in METRICS else SPEED


def plane_chart(proof: Proof) -> Chart:
    """Speed against quality."""
    title = "Speed and quality"
    judged = judged_of(proof.quality)
    speeds: dict[Role, Interval] = {
        role: proof.figures[role][SPEED] for role in ROLES if SPEED in proof.figures.get(role, {})
    }
    if judged is None or not speeds:
        reason = proof.quality.reason if proof.quality else ""
        says = f"Not measurable here: no figure of quality{f' ({reason})' if reason else ''}."
        return Chart(title=title, drawing=None, says=says)
    limit = None if judged.limit is None else plots.Limit(value=judged.limit, is_most=judged.best == 0)
    places: dict[Role, float] = {"baseline": judged.best, "candidate": judged.value}
    drawing = plots.plane(speeds, places, judged.title, judged.write, limit, judged.best)
    says = "Right is faster, up is closer to the baseline, which stands at the top because it is the measure. " + (
        "Shaded: worse than what was demanded." if limit else "No limit was set."
    )
    return Chart(title=title, drawing=drawing, says=says)


def judged_of(quality: Quality | None) -> Judged | None:
    """The strongest figure there is of those that had to reach a limit, else of all.

    KL divergence, else agreement, else equal answers, else words in common.
    """
    choices = (
        ("kl", "KL divergence, nats", 0.0),
        ("agreement", "same next token", 1.0),
        ("same", "same answers", 1.0),
        ("overlap", "words in common", 1.0),
    )
    if quality is None:
        return None
    known = [
        Judged(name=name, title=title, best=best, value=value, limit=quality.limits.get(name))
        for name, title, best in choices
        if (value := getattr(quality, name)) is not None
    ]
    return next((item for item in known if item.limit is not None), known[0] if known else None)


def roofline_chart(proof: Proof) -> Chart:
    """Bytes of weights per second against what memory gives."""
    title = "Share of what memory can give"
    rates = {
        role: (facts["weight_bytes_per_s"], facts["read_limit"])
        for role, facts in proof.roofline.items()
        if facts.get("weight_bytes_per_s", 0) > 0 and facts.get("read_limit", 0) > 0
    }
    if not rates:
        says = "Not measurable here: known only of a model in this engine on a machine whose memory could be measured."
        return Chart(title=title, drawing=None, says=says)
    absent = [role for role in ROLES if role not in rates]
    says = "Weights are read once per step of decoding; no faster than memory (dashed) can be, unless steps are shared."
    says += f" Not measurable here for the {absent[0]}." if absent else ""
    return Chart(title=title, drawing=plots.roofline(rates), says=says)


def cost_chart(proof: Proof) -> Chart:
    """What a million tokens cost when the machine is used little or much."""
    title, cost = "Cost and use", proof.cost
    curves = {role: own for role, own in (cost.curve if cost else {}).items() if any(at > 0 < c for at, c in own)}
    if cost is None or not curves:
        return Chart(title=title, drawing=None, says="Not measurable here: no price is known of this machine.")
    meetings = {name: at for name, at in cost.break_even_tokens.items() if at is not None}
    says = (
        "A machine costs the same whether it is used or not: the more tokens a month, the less each costs, until one "
        "more machine is needed. "
        + " ".join(f"{name}: break-even at {short(at)} tokens a month." for name, at in meetings.items())
    )
    return Chart(title=title, drawing=plots.cost_curve(curves, cost.hosted, meetings, cost.currency), says=says)
