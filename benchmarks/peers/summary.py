"""From reports to figures: medians and spreads over the rounds, ratios to twofold, shares of the machine's limits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.peers.gguf_file import Sizes
from benchmarks.peers.protocol import Report, Task

Codes = Literal["int8", "int4"]
"""What integer weights are stored as."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table: which rate of which task."""

    name: str
    task: Task
    kind: Literal["prefill", "decode"]


FIGURES: tuple[Figure, ...] = (
    Figure(name="prefill 512", task=Task(prompt=512), kind="prefill"),
    Figure(name="prefill 4096", task=Task(prompt=4096), kind="prefill"),
    Figure(name="decode", task=Task(prompt=1), kind="decode"),
    Figure(name="decode at depth 4096", task=Task(prompt=4096), kind="decode"),
    Figure(name="decode, 4 sequences", task=Task(prompt=1, sequences=4), kind="decode"),
    Figure(name="decode, 8 sequences", task=Task(prompt=1, sequences=8), kind="decode"),
    Figure(name="decode, 16 sequences", task=Task(prompt=1, sequences=16), kind="decode"),
    Figure(name="prefill 512, one token", task=Task(prompt=512, is_alike=True), kind="prefill"),
    Figure(name="prefill 4096, one token", task=Task(prompt=4096, is_alike=True), kind="prefill"),
    Figure(name="decode, 4 sequences, one token", task=Task(prompt=1, sequences=4, is_alike=True), kind="decode"),
    Figure(name="decode, 8 sequences, one token", task=Task(prompt=1, sequences=8, is_alike=True), kind="decode"),
    Figure(name="decode, 16 sequences, one token", task=Task(prompt=1, sequences=16, is_alike=True), kind="decode"),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the machine could do in one round: bytes read, and operations per second of our integer products."""

    read_bytes_per_s: float
    int8_ops_per_s: float
    int4_ops_per_s: float

    def of_codes(self, codes: Codes) -> float:
        """Operations per second of products with such weights."""
        return self.int4_ops_per_s if codes == "int4" else self.int8_ops_per_s


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a network asks for: operations per prompt token outside the head, and how experts are chosen.

    active of experts are read for every token; both are 0 for a dense network.
    """

    ops_per_token: float
    experts: int
    active: int

    def read_bytes(self, sizes: Sizes, sequences: int) -> float:
        """Bytes of weights a step of so many sequences is expected to read when routing is uniform."""
        if not self.experts:
            return sizes.once_bytes
        return sizes.once_bytes + sizes.expert_bytes * (1.0 - (1.0 - self.active / self.experts) ** sequences)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An engine's report in one round, how long it took, and the share of the cores others used meanwhile."""

    round: int
    report: Report
    wall_s: float
    others_share: float


def rate_of(figure: Figure, report: Report) -> float | None:
    """The rate a figure asks for, None where the task was skipped."""
    pair = report.rates.get(figure.task.name)
    return None if pair is None else pair[0 if figure.kind == "prefill" else 1]


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, smallest and largest."""
    middle = statistics.median(values)
    return {"median": round(middle, digits), "least": round(min(values), digits), "most": round(max(values), digits)}


def times_as_fast(figure: Figure, own: Sequence[Measured], theirs: Sequence[Measured]) -> float | None:
    """How many times as fast `own` is, the median over rounds both ran: within a round the machine drifts least."""
    by_round = {item.round: item.report for item in own}
    ratios = []
    for other in theirs:
        numerator = rate_of(figure, by_round[other.round]) if other.round in by_round else None
        denominator = rate_of(figure, other.report)
        if numerator and denominator:
            ratios.append(numerator / denominator)
    return round(statistics.median(ratios), 3) if ratios else None


def summarise(
    measured: Sequence[Measured],
    twofold: Sequence[Measured],
    limits: Sequence[Limits],
    work: Work,
    sizes: Sizes | None,
    codes: Codes | None,
) -> dict[str, Any]:
    """All figures of one engine on one network; docs/benchmarks.md says what each key means. codes: of its weights."""
    reports = [item.report for item in measured]
    settled = [report.settled_s for report in reports if report.settled_s is not None]
    found: dict[str, Any] = {
        "version": reports[0].version,
        "rounds": len(reports),
        "start_s": spread([report.start_s for report in reports], 3),
        **({"settled_s": spread(settled, 3)} if settled else {}),
        "peak_memory_bytes": int(statistics.median(report.peak_memory_bytes for report in reports)),
        "others_share": spread([item.others_share for item in measured], 3),
        "workloads": {},
    }
    for figure in FIGURES:
        rates = [rate for report in reports if (rate := rate_of(figure, report)) is not None]
        if not rates and figure.task.is_alike and figure.task.name not in reports[0].skipped:
            continue  # few engines are asked for these
        if not rates:
            reason = reports[0].skipped.get(figure.task.name, "not run")
            found["workloads"][figure.name] = {"skipped": reason}
            continue
        entry: dict[str, Any] = {"tokens_per_s": spread(rates)}
        if twofold:
            entry["twofold_times_as_fast"] = times_as_fast(figure, twofold, measured)
        entry |= load(figure, statistics.median(rates), limits, work, sizes, codes)
        found["workloads"][figure.name] = entry
    return found


def load(
    figure: Figure, rate: float, limits: Sequence[Limits], work: Work, sizes: Sizes | None, codes: Codes | None
) -> dict[str, float]:
    """What a rate asks of memory (decode) or arithmetic (prefill), and the share of the limit."""
    if figure.kind == "prefill":
        operations = work.ops_per_token * rate
        limit = middle(limits, lambda item: item.of_codes(codes)) if codes else 0.0
        share = {"ops_share": round(operations / limit, 4)} if limit else {}
        return {"ops_per_s": round(operations), **share}
    if sizes is None:
        return {}
    read = work.read_bytes(sizes, 1 if figure.task.is_alike else figure.task.sequences) * rate / figure.task.sequences
    limit = middle(limits, lambda item: item.read_bytes_per_s)
    share = {"read_share": round(read / limit, 4)} if limit else {}
    return {"read_bytes_per_s": round(read), **share}


def middle(limits: Sequence[Limits], value: Callable[[Limits], float]) -> float:
    """Median of a limit over the rounds, 0 without any."""
    return statistics.median(map(value, limits)) if limits else 0.0


def cell(entry: Mapping[str, Any] | None, is_twofold: bool) -> str:
    """One cell of the table: rate, and how many times as fast twofold is, or its share of the limit."""
    if entry is None or "tokens_per_s" not in entry:
        return "-"
    text = f"{entry['tokens_per_s']['median']:,.1f}"
    if is_twofold:
        share = entry.get("read_share", entry.get("ops_share"))
        return text if share is None else f"{text} ({share:.0%})"
    ratio = entry.get("twofold_times_as_fast")
    return text if ratio is None else f"{text} (x{ratio:.2f})"
