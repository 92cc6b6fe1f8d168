"""How many tokens to guess, and from which source: what promises the most tokens per second.

    tokens per second = tokens a step is expected to confirm / (seconds of the step + seconds of drafting)

Both sides are measured while serving: how often the guesses of a source come true, how long a step of so many rows
takes, how long the draft model takes. Until then a cost model stands in, which counts what guessed rows cost a
mixture of experts: each row may choose experts that no other row reads (ops.cost.row_costs). Where no length beats
guessing nothing, nothing is guessed, but for a probe now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["lookup", "draft"]

LENGTHS = (0, 1, 3, 7)
"""Numbers of guesses to choose from; with the known token they make 1, 2, 4 and 8 rows."""
PRIORS: dict[Source, tuple[float, float]] = {"lookup": (0.5, 0.8), "draft": (0.7, 0.7)}
"""How often a first guess and a later one come true, before anything is known; they weigh as one observation."""
READING_SHARE = 0.25
"""A token read in a long stretch costs about so much of one decoded, until measured (scout-mini at w4a8: a sixth)."""
BASE_STEPS = 3
"""Steps without guesses come first, to have something to compare with."""
MEMORY = 0.95
PROBE_EVERY = 24
"""Steps between two tries of another length, at least, ..."""
PROBE_SHARE = 0.03
"""... and more where they would take more than this share of the time since the last one."""


@dataclass(eq=False)
class Average:
    """A running mean that turns into an exponential one; the first value may be a prior and weighs as one."""

    value: float
    count: int = 1

    def learn(self, value: float) -> None:
        """Take over one observation."""
        self.count += 1
        self.value += (value - self.value) * max(1 / self.count, 1 - MEMORY)


@dataclass(eq=False)
class StepTimes:
    """Seconds of a step by its number of rows: measured, or scaled by `costs` from the nearest number measured.

    costs[n - 1] is what n rows cost relative to one. Before the first measurement a step of one row takes 1.
    """

    costs: Sequence[float]
    measured: dict[int, Average] = field(default_factory=dict)

    def of(self, rows: int) -> float:
        """Seconds of a step with so many rows."""
        if rows in self.measured:
            return self.measured[rows].value
        if not self.measured:
            return self.cost(rows)
        nearest = min(self.measured, key=lambda other: abs(other - rows))
        return self.measured[nearest].value * self.cost(rows) / self.cost(nearest)

    def cost(self, rows: int) -> float:
        """Relative cost; beyond the table as its last entry."""
        return self.costs[min(rows, len(self.costs)) - 1]

    def learn(self, rows: int, seconds: float) -> None:
        """Take over one measured step; the first of its kind replaces what was scaled."""
        if rows in self.measured:
            self.measured[rows].learn(seconds)
        else:
            self.measured[rows] = Average(seconds)

    def is_known(self, rows: int) -> bool:
        """Whether steps of so many rows were measured a few times."""
        return rows in self.measured and self.measured[rows].count >= BASE_STEPS


@dataclass(eq=False)
class Record:
    """What is known of one source: how often its first guess comes true, and a later one after a right one."""

    first: Average
    later: Average
    asked: int = 0
    waited_s: float = 0.0
    probes: int = 0
    is_probing: bool = False

    def expected(self, length: int) -> float:
        """Tokens a step confirms with so many guesses: its own, and one for each guess that comes true."""
        return 1.0 + self.first.value * sum(self.later.value**place for place in range(length))

    def learn(self, kept: int, is_refuted: bool) -> None:
        """Take over a guess of which `kept` tokens came true and, where `is_refuted`, the next one did not."""
        if kept or is_refuted:
            self.first.learn(float(kept > 0))
        for _ in range(kept - 1):
            self.later.learn(1.0)
        if kept and is_refuted:
            self.later.learn(0.0)
        if self.is_probing:
            self.end_probe()

    def end_probe(self) -> None:
        """Wait for the next one."""
        self.asked, self.waited_s, self.is_probing = 0, 0.0, False
        self.probes += 1


def record_of(source: Source) -> Record:
    """A fresh record, with the source's priors."""
    first, later = PRIORS[source]
    return Record(Average(first), Average(later))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many tokens to guess from a source, and the tokens per second that promises."""

    source: Source
    length: int
    rate: float


class GuessPolicy:
    """Chooses lengths for each source and the order in which sources are asked.

    most: longest guess. step_costs: see StepTimes. draft_cost: one token of the draft model relative to one row of
    the network; None without a draft model. beside_s: seconds the next step takes anyway, for the prompts of others.
    """

    def __init__(self, most: int, step_costs: Sequence[float], draft_cost: float | None = None) -> None:
        self.most = most
        self.times = StepTimes(step_costs)
        self.draft_cost = draft_cost
        self.beside_s = 0.0
        self.draft_token: Average | None = None
        self.draft_reading: Average | None = None
        sources: list[Source] = ["lookup"] if draft_cost is None else ["lookup", "draft"]
        self.records = {source: record_of(source) for source in sources}

    def anew(self) -> GuessPolicy:
        """The same policy before it has learned anything."""
        return GuessPolicy(self.most, self.times.costs, self.draft_cost)

    def without_draft(self) -> GuessPolicy:
        """The same policy, fresh and with look-up alone."""
        return GuessPolicy(self.most, self.times.costs)

    def choices(self, sequences: int, behind: int = 0) -> list[Choice]:
        """A length for each source when so many sequences decode, the most promising source first.

        None at all until steps of so many sequences are known without guesses.

        behind: tokens the draft model would have to read before it could guess; they make its probes rarer.
        """
        if not self.times.is_known(sequences):
            return []
        found = [self.choose(source, sequences, behind) for source in self.records]
        return sorted(found, key=lambda choice: (not self.records[choice.source].is_probing, -choice.rate))

    def choose(self, source: Source, sequences: int, behind: int) -> Choice:
        """The best length of one source, or one to probe."""
        record = self.records[source]
        record.asked += 1
        allowed = [length for length in LENGTHS if length <= self.most]
        best = max(allowed, key=lambda length: self.rate(source, length, sequences))
        place = allowed.index(best)
        others = [*allowed[place + 1 : place + 2], *allowed[max(place - 1, 0) : place], *allowed[: place - 1][:1]]
        length = best
        if others:
            probe = others[record.probes % len(others)]
            extra_s = self.seconds(source, probe, sequences) - self.seconds(source, best, sequences)
            extra_s += behind * self.reading_s if source == "draft" and best == 0 else 0.0
            record.is_probing = record.asked >= PROBE_EVERY and extra_s <= PROBE_SHARE * record.waited_s
            length = probe if record.is_probing else best
        if record.is_probing and length == 0:
            record.end_probe()  # the step without guesses is the whole of it
        return Choice(source=source, length=length, rate=self.rate(source, length, sequences))

    def rate(self, source: Source, length: int, sequences: int) -> float:
        """Tokens per second when every sequence guesses so many tokens from this source."""
        return sequences * self.records[source].expected(length) / self.seconds(source, length, sequences)

    def seconds(self, source: Source, length: int, sequences: int) -> float:
        """Seconds of such a step, drafting included."""
        step_s = self.times.of(sequences * (1 + length)) + self.beside_s
        return step_s + length * self.draft_token_s if source == "draft" else step_s

    @property
    def draft_token_s(self) -> float:
        """Seconds the draft model takes for one guess (of all sequences together)."""
        if self.draft_token is None:
            return (self.draft_cost or 0.0) * self.times.of(1)
        return self.draft_token.value

    @property
    def reading_s(self) -> float:
        """Seconds the draft model takes for one token of a stretch it reads in one go."""
        return READING_SHARE * self.draft_token_s if self.draft_reading is None else self.draft_reading.value

    def pays_to_read(self, behind: int, to_come: int, choice: Choice, sequences: int) -> bool:
        """Whether `to_come` tokens would gain more than it takes the draft model to read `behind` tokens first."""
        gained_s = 1 / self.rate("draft", 0, sequences) - 1 / choice.rate
        return behind * self.reading_s <= to_come * gained_s

    def learn_step(self, rows: int | None, seconds: float, whole_s: float) -> None:
        """Take over a step of the network; `whole_s` counts drafting too. rows: None for one that also read prompts."""
        if rows is not None:
            self.times.learn(rows, seconds)
        for record in self.records.values():
            record.waited_s += whole_s

    def learn_draft(self, tokens: int, seconds: float) -> None:
        """Take over that the draft model guessed so many tokens in a row."""
        self.draft_token = learned(self.draft_token, seconds / tokens)

    def learn_reading(self, tokens: int, seconds: float) -> None:
        """Take over that the draft model read so many tokens of text."""
        self.draft_reading = learned(self.draft_reading, seconds / tokens)


def learned(average: Average | None, value: float) -> Average:
    """The average with one more observation."""
    if average is None:
        return Average(value)
    average.learn(value)
    return average
