"""What a proof consists of: contenders, runs, figures with intervals, quality, cost, verdict. One JSON file holds it.

Definitions of the figures are in METRICS; documentation and reports print them from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 1
Role = Literal["baseline", "candidate"]
ROLES: tuple[Role, ...] = ("baseline", "candidate")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """title: for people; unit: what figures are in; more_is_better: which way is good; meaning: how it is measured."""

    title: str
    unit: str
    more_is_better: bool
    meaning: str


METRICS: dict[str, Metric] = {
    "tokens_per_s": Metric(
        title="Output tokens per second", unit="tokens/s", more_is_better=True,
        meaning="All answer tokens of a run, by the server's own count, over the seconds from the first request sent "
        "to the last token received.",
    ),
    "requests_per_s": Metric(
        title="Requests per second", unit="requests/s", more_is_better=True,
        meaning="Whole answers of a run over the same seconds.",
    ),
    "goodput": Metric(
        title="Goodput", unit="requests/s", more_is_better=True,
        meaning="Answers whose first token and 99 of 100 later ones came within the stated limits, over those seconds.",
    ),
    "first_token_ms": Metric(
        title="Time to first token", unit="ms", more_is_better=False,
        meaning="From the moment before the connection is opened to the first piece of text; median of a run.",
    ),
    "first_token_p99_ms": Metric(
        title="Time to first token, 99 %", unit="ms", more_is_better=False,
        meaning="The same; 99 of 100 requests of a run waited no longer.",
    ),
    "between_tokens_ms": Metric(
        title="Time between tokens", unit="ms", more_is_better=False,
        meaning="Seconds from the first token of an answer to its last, over its tokens but one; median of a run.",
    ),
    "gap_p99_ms": Metric(
        title="Longest gaps, 99 %", unit="ms", more_is_better=False,
        meaning="From one piece of text to the next as they arrive; 99 of 100 gaps of a run were no longer.",
    ),
    "cpu_s_per_1k": Metric(
        title="CPU seconds per 1,000 tokens", unit="s", more_is_better=False,
        meaning="CPU time of the server's processes during a run, over its answer tokens.",
    ),
    "joules_per_1k": Metric(
        title="Energy per 1,000 tokens", unit="J", more_is_better=False,
        meaning="What the machine's own counters say for the whole package during a run, over its answer tokens.",
    ),
    "peak_memory_mb": Metric(
        title="Peak memory", unit="MB", more_is_better=False,
        meaning="The most the server's processes held since they began (10^6 bytes), shared files left out.",
    ),
    "start_s": Metric(
        title="Start", unit="s", more_is_better=False,
        meaning="From starting the server's process to its first answer to GET /health; once in a proof, so "
        "without an interval.",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Who is measured. kind: how it is run. settings: everything that was chosen for it. weights: a fingerprint.

    notes: what a reader must know, in sentences.
    """

    role: Role
    kind: Literal["twofold", "transformers", "endpoint"]
    name: str
    model: str
    settings: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    weights: str = ""
    weight_bytes: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer. Seconds; request: its number in the workload; error: what went wrong, "" when nothing did."""

    round: int
    role: Role
    request: int
    first_s: float = 0.0
    gaps_s: Sequence[float] = ()
    total_s: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    text: str = ""
    finish: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The whole workload once. figures: by the names of METRICS, only those that could be measured.

    others_share: of all cores, what other programs took meanwhile; None where that is not known.
    """

    round: int
    role: Role
    seconds: float
    figures: Mapping[str, float]
    errors: int = 0
    others_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median, and the bounds of its 95 % confidence interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How close the candidate's answers are to the baseline's.

    kind: "scored" when both gave probabilities for the same texts (then kl, kl_p99 in nats and agreement, the share of
    positions where both prefer the same token, over `scored_tokens`); "answers" when only answers can be compared.
    same: share of greedy answers that are equal; overlap: mean share of words in common, in order. expected_*: share of
    the workload's questions answered as expected, where it says what is expected. reason: why not scored. limits: what
    was demanded, by the name of the figure: kl and kl_p99 at most, the shares at least; lost: how much smaller
    expected_candidate may be.
    """

    kind: Literal["scored", "answers", "none"]
    same: float | None = None
    overlap: float | None = None
    compared: int = 0
    kl: float | None = None
    kl_p99: float | None = None
    agreement: float | None = None
    scored_tokens: int = 0
    expected_baseline: float | None = None
    expected_candidate: float | None = None
    reason: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Money, by role. per_million_*: at this workload's speed, the machine doing nothing else (bench/proof/cost.py)."""

    currency: str
    per_hour: float
    source: str
    per_million_input: Mapping[Role, float]
    per_million_output: Mapping[Role, float]
    per_request: Mapping[Role, float]
    curve: Mapping[Role, Sequence[tuple[float, float]]]
    """(tokens a month, cost of a million output tokens) from a little use to full use."""
    hosted: Mapping[str, float] = field(default_factory=dict)
    """Cost of a million output tokens, with the input this workload has, at hosted prices."""
    break_even_tokens: Mapping[str, float | None] = field(default_factory=dict)
    """Output tokens a month from which the candidate's machine is cheaper than each hosted price; None: never."""
    monthly_saving: float | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """proven: the lower bound of the ratio reaches the target and quality holds. reasons: why not, or what to know."""

    proven: bool
    metric: str
    ratio: Interval
    target: float
    reasons: Sequence[str]

    @property
    def headline(self) -> str:
        """One line."""
        factor = f"{self.ratio.median:.1f}x (95 % between {self.ratio.low:.2f} and {self.ratio.high:.2f})"
        return f"PROVEN {factor}" if self.proven else f"NOT PROVEN: {'; '.join(self.reasons)}"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Everything but the samples. status: "partial" when it was cut short; problems: what went wrong on the way."""

    created: str
    seed: int
    status: Literal["complete", "partial"]
    command: Sequence[str]
    machine: Mapping[str, Any]
    workload: Mapping[str, Any]
    contenders: Mapping[Role, Contender]
    runs: Sequence[Run]
    figures: Mapping[Role, Mapping[str, Interval]]
    ratios: Mapping[str, Interval]
    overhead: Mapping[str, float]
    quality: Quality | None = None
    roofline: Mapping[Role, Mapping[str, float]] = field(default_factory=dict)
    """For contenders of this engine: weight_bytes_per_s and its limit read_limit, share of it."""
    cost: Cost | None = None
    verdict: Verdict | None = None
    problems: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """As result.json."""
        return {"schema": SCHEMA, "kind": "twofold-proof", **asdict(self)}
