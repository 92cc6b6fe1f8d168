"""Chooses which tokens run in the next step: continuous batching with chunked prefill.

Running sequences come first, those that only need one token before those still reading their prompt; then waiting
ones are admitted in order of arrival. When blocks run out the newest running sequence goes back to waiting and is
computed again later (preemption by recompute), so the oldest always gets through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from types import MappingProxyType

from twofold.engine.blocks import Blocks
from twofold.engine.request import Event, FinishReason, Sequence
from twofold.ops.types import Drawn, RowSampling

NO_GUESSES: Mapping[int, tuple[int, ...]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The next `count` tokens of a sequence, and guesses of what follows them.

    Its last token is sampled from when nothing is pending after it, and then so is every guess. prompt_rows: how many
    of the tokens belong to the prompt, counted when it is made, for the sequence moves on.
    """

    sequence: Sequence
    count: int
    guesses: tuple[int, ...] = ()
    prompt_rows: int = field(init=False)

    def __post_init__(self) -> None:
        unread = len(self.sequence.request.prompt) - self.sequence.computed
        object.__setattr__(self, "prompt_rows", max(0, min(self.count, unread)))

    @property
    def samples(self) -> bool:
        """Whether this slice ends with the sequence's last known token."""
        return self.count == self.sequence.pending

    @property
    def rows(self) -> int:
        """Rows of the batch it takes."""
        return self.count + len(self.guesses)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step runs."""

    slices: tuple[Slice, ...]

    @property
    def sampling(self) -> list[RowSampling]:
        """Settings of each sampled row, in the order of the logits rows."""
        return [
            item.sequence.row_sampling(item.guesses[:known])
            for item in self.slices
            if item.samples
            for known in range(len(item.guesses) + 1)
        ]


class Scheduler:
    """Plain bookkeeping: two queues and the blocks."""

    def __init__(self, blocks: Blocks, step_tokens: int, max_sequences: int) -> None:
        self.blocks = blocks
        self.step_tokens = step_tokens
        self.max_sequences = max_sequences
        self.preemptions = 0
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its caller has checked that it fits into the empty cache."""
        self.waiting.append(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request and free its blocks; unknown ids are already finished."""
        for sequence in [*self.running, *self.waiting]:
            if sequence.request.id == request_id:
                self.remove(sequence)

    def plan(self, guesses: Mapping[int, tuple[int, ...]] = NO_GUESSES) -> Plan | None:
        """The next step within the token budget; None when there is nothing to do.

        guesses: what may follow, by request id; as much of it runs as there is room for.
        """
        slices: list[Slice] = []
        budget = self.step_tokens
        for sequence in sorted(self.running, key=lambda item: item.pending > 1):
            if budget and sequence in self.running:  # a preempted one is no longer running
                count = min(sequence.pending, budget)
                if self.make_room(sequence, count, slices):
                    guess = guesses.get(sequence.request.id, ()) if count == sequence.pending else ()
                    fitting = self.fit_guess(sequence, guess, budget - count)
                    slices.append(Slice(sequence=sequence, count=count, guesses=fitting))
                    budget -= slices[-1].rows
        while budget and self.can_admit():
            sequence = self.waiting[0]
            count = self.blocks.admit(sequence, budget)
            if not count:
                break
            self.running.append(self.waiting.popleft())
            slices.append(Slice(sequence=sequence, count=count))
            budget -= count
        return Plan(slices=tuple(slices)) if slices else None

    def can_admit(self) -> bool:
        """Whether the first waiting sequence may start: a place is free, and nobody is reading what it could share."""
        if not self.waiting or len(self.running) >= self.max_sequences:
            return False
        return not any(self.blocks.is_being_read(self.waiting[0], reading) for reading in self.running)

    def make_room(self, sequence: Sequence, count: int, slices: list[Slice]) -> bool:
        """Reserve blocks for a running sequence, preempting newer ones; False when it had to give way itself."""
        while not self.blocks.reserve(sequence, count):
            newest = self.running[-1]
            slices[:] = [item for item in slices if item.sequence is not newest]
            self.preempt(newest)
            if newest is sequence:
                return False
        return True

    def fit_guess(self, sequence: Sequence, guess: tuple[int, ...], budget: int) -> tuple[int, ...]:
        """A guess as far as budget, answer and free blocks allow; never at another sequence's cost."""
        if not guess or sequence.request.constraint:  # a constraint knows what may follow known tokens only
            return ()
        generated = len(sequence.tokens) - len(sequence.request.prompt)
        fitting = guess[: max(0, min(budget, sequence.request.max_tokens - generated - 1))]
        return fitting if self.blocks.reserve(sequence, sequence.pending + len(fitting)) else ()

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to the head of the waiting ones, without its blocks."""
        self.running.remove(sequence)
        self.blocks.release(sequence)
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def commit(self, plan: Plan, drawn: Many[Drawn]) -> list[Event]:
        """Take over the step's results: append the new tokens, finish what is finished."""
        events: list[Event] = []
        row = 0
        for item in plan.slices:
            samples = item.samples
            item.sequence.computed += item.count
            self.blocks.remember(item.sequence)
            if samples:
                events += self.extend(item, drawn[row : row + len(item.guesses) + 1])
                row += len(item.guesses) + 1
        return events

    def extend(self, item: Slice, drawn: Many[Drawn]) -> list[Event]:
        """Append what was drawn, up to and including the first token that was guessed wrong."""
        events: list[Event] = []
        sequence = item.sequence
        for place, token in enumerate(drawn):
            sequence.tokens.append(token.token)
            if sequence.request.constraint:
                sequence.request.constraint.accept(token.token)
            finish = finish_reason(sequence)
            events.append(
                Event(request_id=sequence.request.id, drawn=token, finish=finish, cached=sequence.cached or 0)
            )
            if finish:
                self.remove(sequence)
                break
            if place == len(item.guesses) or token.token != item.guesses[place]:
                break
            sequence.computed += 1  # the guess was right, so its keys and values are
        return events

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence from whichever queue holds it and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.blocks.release(sequence)


def finish_reason(sequence: Sequence) -> FinishReason | None:
    """Why the sequence ends with its newest token, None when it goes on."""
    if sequence.tokens[-1] in sequence.request.stop_ids:
        return "stop"
    generated = len(sequence.tokens) - len(sequence.request.prompt)
    return "length" if generated >= sequence.request.max_tokens else None
