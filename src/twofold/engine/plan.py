"""What one step runs: slices of sequences, and how the tokens behind them are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.engine.request import Sequence
from twofold.ops.types import RowSampling

UNKNOWN = 0
"""Stands for a token that a step in front of this one is still drawing; any id would do."""
NOTHING = range(0)
OF_NO_USE = RowSampling(temperature=0.0)
"""How a row is drawn from that nobody waits for any more."""


@dataclass(kw_only=True, slots=True)
class Slice:
    """The next `count` tokens of a sequence, and guesses of what follows them.

    is_ahead: the one token that comes after all of them, which a step in front of this one is still drawing. What holds
    when it is made, for the sequence moves on: start, the position of its first token; rows, of the batch; prompt_rows,
    tokens that belong to the prompt; is_reading, whether the sequence needs more than its next token; samples, whether
    its last token is sampled from, since nothing is pending after it, and then so is every guess; judging, positions of
    the prompt whose next token is judged. Not frozen for the reason that RowSampling is not.
    """

    sequence: Sequence
    count: int
    guesses: tuple[int, ...] = ()
    is_ahead: bool = False
    start: int = field(init=False)
    rows: int = field(init=False)
    prompt_rows: int = field(init=False)
    is_reading: bool = field(init=False)
    samples: bool = field(init=False)
    judging: range = field(init=False)

    def __post_init__(self) -> None:
        sequence, count = self.sequence, self.count
        self.rows = count + len(self.guesses)
        if self.is_ahead:
            self.start, self.prompt_rows, self.is_reading, self.samples = len(sequence.tokens), 0, False, True
            self.judging = NOTHING
            return
        pending = sequence.pending
        self.start = sequence.computed
        self.prompt_rows = max(0, min(count, len(sequence.request.prompt) - sequence.computed))
        self.is_reading = pending > 1
        self.samples = count == pending
        self.judging = sequence.judging(count)

    @property
    def tokens(self) -> list[int]:
        """Its tokens, without guesses."""
        return self.sequence.tokens[self.start : self.start + self.count] or [UNKNOWN]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step runs."""

    slices: tuple[Slice, ...]

    @property
    def without_guesses(self) -> Plan:
        """The same step, and nothing guessed."""
        return Plan(slices=tuple(Slice(sequence=item.sequence, count=item.count) for item in self.slices))

    @property
    def reading_rows(self) -> int:
        """Rows of sequences that need more than their next token."""
        return sum(item.count for item in self.slices if item.is_reading)

    @property
    def decoding(self) -> int:
        """Sequences that need their next token only."""
        return sum(not item.is_reading for item in self.slices)

    @property
    def draws_once(self) -> bool:
        """Whether each of its sequences gets one token of it, and nothing else."""
        return all(item.samples and not item.guesses and not item.judging for item in self.slices)

    @property
    def sampling(self) -> list[RowSampling]:
        """Settings of each row that judges or is sampled from, in the order of the logits rows."""
        found: list[RowSampling] = []
        for item in self.slices:
            if item.judging:
                found += [item.sequence.judging_row(position) for position in item.judging]
            if item.sequence.is_over:
                found.append(OF_NO_USE)
            elif item.samples:
                found += [item.sequence.row_sampling(item.guesses[:known]) for known in range(len(item.guesses) + 1)]
        return found

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for any of its sequences."""
        return all(item.sequence.is_over for item in self.slices)

    def without_ended(self) -> Plan:
        """What somebody still waits for."""
        return Plan(slices=tuple(item for item in self.slices if not item.sequence.is_over))
