"""report.html: a proof as one page that needs nothing but itself. Every string from outside is escaped."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Literal

import jinja2

from twofold.bench.proof import answers, tables
from twofold.bench.proof.axes import figure, percent, times
from twofold.bench.proof.charts import charts_of, cost_chart, judged_of
from twofold.bench.proof.model import METRICS, ROLES, Cost, Interval, Proof, Quality, Sample
from twofold.bench.proof.svg import printable

REPLAY = "twofold prove --replay BUNDLE"
FOLDER = resources.files("twofold.bench.proof")
HIDDEN = ("prompts",)
"""Parts of the workload that are no fact for a table."""
QUALITY_MEANING = {
    "scored": "Both contenders gave probabilities for the same texts, so the distance between them was measured token "
    "by token: the strongest comparison there is.",
    "answers": "Only answers could be compared, not probabilities: equal answers show that little changed, different "
    "ones may be as good or worse. This says less than scores do.",
    "none": "Quality was not compared. Faster answers may be worse answers.",
}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of the few figures at the top."""

    title: str
    text: str
    small: str


@dataclass(frozen=True, kw_only=True)
class Banner:
    """The verdict. kind decides the colour; says: what was to be shown and what was measured; reasons: as judged."""

    kind: Literal["proven", "unproven", "partial"]
    headline: str
    says: str
    reasons: Sequence[str]


def render(proof: Proof, samples: Sequence[Sample]) -> str:
    """The page. Plots come from runs and samples, tables from the figures of the proof."""
    style = (FOLDER / "report.css").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((FOLDER / "report.html.jinja").read_text("utf-8"))
    page = template.render(
        proof=proof,
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        banner=banner_of(proof),
        tiles=tiles_of(proof, samples),
        names={role: name_of(proof, role) for role in ROLES},
        machine=machine_words(proof.machine),
        workload=workload_words(proof.workload),
        date=date_words(proof.created),
        rounds=len({run.round for run in proof.runs}),
        sample_count=len(samples),
        metrics=METRICS,
        metric_rows=tables.metric_rows(proof),
        bar_axis=tables.bar_axis_of(proof),
        charts=charts_of(proof, samples),
        quality_meaning=QUALITY_MEANING[proof.quality.kind if proof.quality else "none"],
        quality_rows=tables.quality_rows(proof.quality),
        pairs=answers.pairs_of(proof, samples),
        cost=cost_parts(proof, samples),
        setting_rows=tables.setting_rows(proof.contenders),
        machine_rows=tables.fact_rows(proof.machine),
        workload_rows=tables.fact_rows(proof.workload, HIDDEN),
        overhead_rows=tables.fact_rows(proof.overhead),
        problems=[*proof.problems, *answers.failures_of(samples)],
        command=command_words(proof.command),
        replay=REPLAY,
    )
    return printable(page)


def banner_of(proof: Proof) -> Banner:
    """A run that was cut short proves nothing, whatever it had measured by then."""
    verdict = proof.verdict
    says = "" if verdict is None else measured_words(verdict.metric, verdict.ratio, verdict.target)
    reasons = () if verdict is None else verdict.reasons
    if proof.status == "partial":
        count = len({run.round for run in proof.runs})
        cut = f"The run was cut short in round {count}; nothing is proven. " if count else "The run was cut short. "
        return Banner(kind="partial", headline="PARTIAL", says=cut + says, reasons=reasons)
    if verdict is None:
        return Banner(kind="unproven", headline="NOT PROVEN", says="There is no verdict.", reasons=reasons)
    if verdict.proven:
        return Banner(kind="proven", headline=f"PROVEN {verdict.ratio.median:.1f}x", says=says, reasons=reasons)
    return Banner(kind="unproven", headline="NOT PROVEN", says=says, reasons=reasons)


def measured_words(name: str, ratio: Interval, target: float) -> str:
    """What was to be shown and what was measured."""
    title = METRICS[name].title.lower() if name in METRICS else "a figure not known here"
    if not tables.is_known(ratio):
        return f"{title.capitalize()}: at least {target:g}x was to be shown; the ratio could not be measured."
    between = f"95 % between {times(ratio.low)} and {times(ratio.high)}"
    if ratio.low == ratio.high:
        between = "in too few rounds for an interval"
    return f"{title.capitalize()}: at least {target:g}x was to be shown; measured {times(ratio.median)}, {between}."


def tiles_of(proof: Proof, samples: Sequence[Sample]) -> list[Tile]:
    """How much faster, how soon, how good, how dear."""
    tiles: list[Tile] = []
    judged = proof.verdict.metric if proof.verdict else ""
    for name in dict.fromkeys((judged, "tokens_per_s", "first_token_ms")):
        if name in METRICS and len(tiles) < 2:
            tiles.append(metric_tile(proof, name))
    return [*tiles, quality_tile(proof.quality), cost_tile(proof.cost, samples)]


def metric_tile(proof: Proof, name: str) -> Tile:
    """A ratio, with the figures it comes from."""
    metric, ratio = METRICS[name], proof.ratios.get(name)
    old, new = (proof.figures.get(role, {}).get(name) for role in ROLES)
    if ratio is None or old is None or new is None or not tables.is_known(ratio):
        return Tile(title=metric.title, text=tables.UNKNOWN, small="")
    good = "" if metric.more_is_better else "; less is better"
    small = f"{figure(old.median)} → {figure(new.median)} {metric.unit}{good}"
    return Tile(title=metric.title, text=times(ratio.median), small=small)


def quality_tile(quality: Quality | None) -> Tile:
    """The strongest figure of quality."""
    judged = judged_of(quality)
    if quality is None or judged is None:
        return Tile(title="Quality", text="not compared", small=(quality.reason if quality else ""))
    if judged.name == "kl":
        same = "" if quality.agreement is None else f"{percent(quality.agreement)} same next token"
        return Tile(title="Quality: KL divergence", text=f"{figure(judged.value)} nats", small=same)
    return Tile(title=f"Quality: {judged.title}", text=percent(judged.value), small="")


def cost_tile(cost: Cost | None, samples: Sequence[Sample]) -> Tile:
    """A million output tokens."""
    title = "Cost of a million output tokens"
    prices = tables.per_million_whole(cost, samples) if cost else {}
    if cost is None or "candidate" not in prices:
        return Tile(title=title, text=tables.UNKNOWN, small="no price is known of this machine" if cost is None else "")
    old = prices.get("baseline")
    small = "with their input, in full use" + ("" if old is None else f"; baseline {figure(old)}")
    return Tile(title=title, text=tables.money(prices["candidate"], cost.currency), small=small)


def cost_parts(proof: Proof, samples: Sequence[Sample]) -> dict[str, Any] | None:
    """The section on cost; None without prices."""
    cost = proof.cost
    if cost is None:
        return None
    return {
        "rows": tables.cost_rows(cost, samples),
        "hosted": tables.hosted_rows(cost),
        "chart": cost_chart(proof),
        "currency": cost.currency,
        "per_hour": tables.money(cost.per_hour, cost.currency),
        "source": cost.source,
        "saving": None if cost.monthly_saving is None else tables.money(cost.monthly_saving, cost.currency),
        "notes": cost.notes,
    }


def name_of(proof: Proof, role: Any) -> str:
    """What a contender is called."""
    return proof.contenders[role].name if role in proof.contenders else "not known"


def machine_words(facts: Mapping[str, Any]) -> str:
    """What a machine is called, with its threads."""
    names = [facts[name] for name in ("name", "gpu", "cpu") if isinstance(facts.get(name), str) and facts[name]]
    threads = facts.get("threads")
    return (names[0] if names else "this machine") + (f", {threads} threads" if isinstance(threads, int) else "")


def workload_words(facts: Mapping[str, Any]) -> str:
    """What a workload is called, with its requests."""
    name, requests, streams = (facts.get(part) for part in ("name", "requests", "streams"))
    words = name if isinstance(name, str) and name else "without a name"
    words += f"; {requests:,} requests a round" if isinstance(requests, int) else ""
    return words + (f", {streams:,} at once" if isinstance(streams, int) else "")


def command_words(command: Sequence[str]) -> str:
    """A command as a shell takes it, without keys: reports are shown around."""
    words, hides = [], False
    for word in command:
        name, sign, _ = word.partition("=")
        is_key = name.startswith("--") and name.endswith("key")
        words.append("KEY" if hides else f"{name}=KEY" if is_key and sign else word)
        hides = is_key and not sign
    return shlex.join(words)


def date_words(created: str) -> str:
    """A date people read: 26 November 2026, 05:33 UTC. What is no date stays as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()
