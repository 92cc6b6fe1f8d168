"""The tables of a report: figures, quality, cost, settings and facts as rows of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.bench.proof import plots
from twofold.bench.proof.axes import Scale, figure, percent, plain, short, times
from twofold.bench.proof.model import METRICS, ROLES, Contender, Cost, Interval, Proof, Quality, Role, Sample
from twofold.bench.proof.svg import Svg

UNKNOWN = "not measurable here"
MOST_ITEMS = 12
"""Of a long list this many items are shown, and how many more there are."""

UNITS = (
    *(("_bytes_per_s", 1e-9, "GB/s"), ("_bytes", 1e-9, "GB"), ("_mb", 1.0, "MB"), ("_share", 100.0, "%")),
    *(("_per_s", 1.0, "per second"), ("_ms", 1.0, "ms"), ("_s", 1.0, "s")),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A figure with what stands under it in small letters."""

    text: str
    small: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One figure of both contenders. judged: the verdict is about this one."""

    title: str
    unit: str
    good: str
    cells: Sequence[Cell]
    ratio: Cell
    bar: Svg | None
    judged: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """A named row of one or more texts. marked: worth a look; small: an explanation under the name."""

    name: str
    values: Sequence[str]
    marked: bool = False
    small: str = ""


def metric_rows(proof: Proof) -> list[MetricRow]:
    """Every figure of METRICS, measured or not."""
    target = target_of(proof)
    judged = proof.verdict.metric if proof.verdict else ""
    ratios = known_ratios(proof)
    scale = bar_scale_of(proof)
    return [
        MetricRow(
            title=metric.title,
            unit=metric.unit,
            good="more is better" if metric.more_is_better else "less is better",
            cells=[figure_cell(proof.figures.get(role, {}).get(name)) for role in ROLES],
            ratio=ratio_cell(ratios.get(name)),
            bar=plots.bar(ratios[name], scale, target if name == judged else None) if name in ratios else None,
            judged=name == judged,
        )
        for name, metric in METRICS.items()
    ]


def known_ratios(proof: Proof) -> dict[str, Interval]:
    """The ratios that are numbers."""
    return {name: ratio for name, ratio in proof.ratios.items() if name in METRICS and is_known(ratio)}


def target_of(proof: Proof) -> float | None:
    """What was to be shown."""
    return proof.verdict.target if proof.verdict else None


def bar_scale_of(proof: Proof) -> Scale:
    """The scale all bars share."""
    return plots.bar_scale(list(known_ratios(proof).values()), target_of(proof))


def bar_axis_of(proof: Proof) -> Svg:
    """What stands above the bars."""
    return plots.bar_axis(bar_scale_of(proof), target_of(proof))


def is_known(interval: Interval | None) -> bool:
    """Whether there are figures in it."""
    return interval is not None and all(math.isfinite(v) for v in (interval.median, interval.low, interval.high))


def figure_cell(interval: Interval | None) -> Cell:
    """Median above, interval below."""
    if interval is None or not is_known(interval):
        return Cell(text=UNKNOWN)
    return Cell(text=figure(interval.median), small=bounds(interval, figure))


def ratio_cell(ratio: Interval | None) -> Cell:
    """The same of a ratio."""
    if ratio is None:
        return Cell(text=UNKNOWN)
    return Cell(text=times(ratio.median), small=bounds(ratio, times))


def bounds(interval: Interval, write: Callable[[float], str]) -> str:
    """The interval in words."""
    if interval.low == interval.high:
        return "no interval: one measurement, or all alike"
    return f"{write(interval.low)} to {write(interval.high)}"


def quality_rows(quality: Quality | None) -> list[Row]:
    """Figures of quality with what they mean and what was demanded: name, figure, limit. Empty without any figure."""
    names = ("kl", "kl_p99", "agreement", "same", "overlap", "expected_baseline", "expected_candidate")
    if quality is None or all(getattr(quality, name) is None for name in names):
        return []
    compared = f"of {quality.compared:,} answers to the same prompts"
    scored = f"over {quality.scored_tokens:,} tokens of the same texts"
    figures = (
        (
            "kl",
            "KL divergence, mean",
            f"nats; how far the candidate's probabilities are from the baseline's, {scored}",
            figure,
        ),
        ("kl_p99", "KL divergence, 99 %", "nats; 99 of 100 of these tokens are no further", figure),
        ("agreement", "Same next token", f"share of places where both prefer the same token, {scored}", percent),
        ("same", "Same answers", f"share {compared}, that are equal to the letter", percent),
        ("overlap", "Words in common", f"mean share of words in common, in order, {compared}", percent),
    )
    rows = []
    for name, title, meaning, write in figures:
        value, limit = getattr(quality, name), quality.limits.get(name)
        demanded = "none set" if limit is None else limit_words(name, limit)
        rows.append(Row(name=title, small=meaning, values=[UNKNOWN if value is None else write(value), demanded]))
    for role in ROLES:
        value = getattr(quality, f"expected_{role}")
        text = "the workload does not say what is expected" if value is None else percent(value)
        small = f"share of the workload's questions that the {role} answers as expected"
        lost = quality.limits.get("lost") if role == "candidate" else None
        demanded = "none set" if lost is None else f"at most {100 * lost:.4g} % fewer"
        rows.append(Row(name=f"Right answers, {role}", small=small, values=[text, demanded]))
    return rows


def limit_words(name: str, limit: float) -> str:
    """What was demanded of a figure of quality."""
    return f"at most {plain(limit)}" if name.startswith("kl") else f"at least {100 * limit:.4g} %"


def per_million_whole(cost: Cost, samples: Sequence[Sample]) -> dict[Role, float]:
    """What a million output tokens cost with the input that belongs to them, the machine in full use."""
    found: dict[Role, float] = {}
    for role, price in cost.per_request.items():
        own = [sample for sample in samples if sample.role == role and not sample.error]
        tokens = sum(sample.answer_tokens for sample in own)
        if tokens:
            found[role] = price * len(own) / tokens * 1e6
    return found


def cost_rows(cost: Cost, samples: Sequence[Sample]) -> list[Row]:
    """Money by contender: name, baseline, candidate, how many times cheaper."""
    thousand = {role: 1000 * price for role, price in cost.per_request.items()}
    parts = (
        ("A million output tokens", "with the input that belongs to them", per_million_whole(cost, samples)),
        ("Of that, output alone", "a million; the time after first tokens", cost.per_million_output),
        ("A million input tokens", "the time until first tokens", cost.per_million_input),
        ("1,000 requests", "as this workload has them", thousand),
    )
    rows = []
    for title, small, prices in parts:
        values = [figure(prices[role]) if role in prices else UNKNOWN for role in ROLES]
        old, new = (prices.get(role, 0.0) for role in ROLES)
        rows.append(Row(name=title, small=small, values=[*values, times(old / new) if old > 0 < new else UNKNOWN]))
    return rows


def hosted_rows(cost: Cost) -> list[Row]:
    """Other people's prices and from which use on the candidate's machine is cheaper."""
    rows = []
    for name, price in cost.hosted.items():
        at = cost.break_even_tokens.get(name)
        text = "never, even in full use" if at is None else f"from {short(at)} output tokens a month"
        rows.append(Row(name=name, values=[figure(price), text]))
    return rows


def money(value: float, currency: str) -> str:
    """An amount with its currency."""
    return f"{figure(value)} {currency}"


def setting_rows(contenders: Mapping[Any, Contender]) -> list[Row]:
    """Everything chosen for either contender; what differs is marked."""
    both = [described(contenders[role]) if role in contenders else {} for role in ROLES]
    names = list(dict.fromkeys([*both[0], *both[1]]))
    rows = []
    for name in names:
        values = [own.get(name, "not set") for own in both]
        rows.append(Row(name=name, values=values, marked=values[0] != values[1]))
    return rows


def described(contender: Contender) -> dict[str, str]:
    """One contender's facts and settings by name."""
    size = "not known" if contender.weight_bytes is None else f"{contender.weight_bytes:,}"
    known = {
        "name": contender.name,
        "kind": contender.kind,
        "version": contender.version or "not known",
        "model": contender.model,
        "weights": contender.weights or "not known",
        "weights, bytes": size,
    }
    return known | {f"setting: {name}": str(value) for name, value in contender.settings.items()}


def fact_rows(facts: Mapping[str, Any], hidden: Sequence[str] = ()) -> list[Row]:
    """A nested mapping as rows, its names joined."""
    return [Row(name=name, values=[text]) for name, text in flattened(facts) if name not in hidden]


def flattened(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of everything within."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{before}{name}: ".replace("_", " "))
        else:
            title, text = with_unit(str(name), value)
            yield f"{before}{title}".replace("_", " "), text


def with_unit(name: str, value: Any) -> tuple[str, str]:
    """Name and text of a fact; a unit that ends the name goes to the figure: memory_bytes is 33.4 GB of memory."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        for ending, factor, unit in UNITS:
            if name.endswith(ending):
                return name.removesuffix(ending), f"{figure(value * factor)} {unit}"
    return name, fact(value)


def fact(value: Any) -> str:
    """Any value in words."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return figure(value) if math.isfinite(value) else "no number"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        rest = f" and {len(value) - MOST_ITEMS:,} more" if len(value) > MOST_ITEMS else ""
        return ", ".join(fact(item) for item in value[:MOST_ITEMS]) + rest
    return str(value)
