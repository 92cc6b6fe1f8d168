"""Chooses which tokens run in the next step: continuous batching with chunked prefill.

Running sequences that need one token come first; what is left of the step reads texts, of running and waiting sequences
in one order (engine/order.py). When blocks run out, and when a sequence of a better priority waits, the last in that
order goes back to waiting and is computed again later (preemption by recompute), so the first always gets through.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from types import MappingProxyType

from twofold.engine.blocks import Blocks
from twofold.engine.order import Waiting, place
from twofold.engine.plan import Plan, Slice
from twofold.engine.request import Event, FinishReason, Sequence
from twofold.ops.types import Drawn

NO_GUESSES: Mapping[int, tuple[int, ...]] = MappingProxyType({})


@dataclass(kw_only=True, eq=False)
class Outline:
    """A step in the making: its slices by request id, the rows it has left, and who gave way for it.

    judging: how many of the rows left may judge a prompt.
    """

    rows: int
    judging: int
    slices: dict[int, Slice] = field(default_factory=dict)
    preempted: set[int] = field(default_factory=set)

    def put(self, sequence: Sequence, count: int, guesses: tuple[int, ...] = ()) -> None:
        """Run the next `count` tokens of a sequence, and guesses of what follows."""
        item = self.slices[sequence.request.id] = Slice(sequence=sequence, count=count, guesses=guesses)
        self.rows -= item.rows
        self.judging -= len(item.judging)

    def drop(self, sequence: Sequence) -> None:
        """A sequence gives way, and its rows are free again."""
        item = self.slices.pop(sequence.request.id, None)
        if item:
            self.rows += item.rows
            self.judging += len(item.judging)
        self.preempted.add(sequence.request.id)


class Scheduler:
    """Plain bookkeeping: two queues and the blocks. judging_rows: most rows of a step that judge prompts.

    running: in the order of `place`, which never changes while a sequence runs.
    """

    def __init__(self, blocks: Blocks, step_tokens: int, max_sequences: int, judging_rows: int | None = None) -> None:
        self.blocks = blocks
        self.judging_rows = step_tokens if judging_rows is None else judging_rows
        self.step_tokens = step_tokens
        self.max_sequences = max_sequences
        self.preemptions = 0
        self.waiting = Waiting()
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Its caller has checked that it fits into the empty cache."""
        self.waiting.arrive(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request and free its blocks; unknown ids are already finished."""
        for sequence in [*self.running, *self.waiting]:
            if sequence.request.id == request_id:
                self.remove(sequence)

    def plan(self, guesses: Mapping[int, tuple[int, ...]] = NO_GUESSES, reading_rows: int | None = None) -> Plan | None:
        """The next step within the token budget; None when there is nothing to do.

        guesses: what may follow, by request id; as much of it runs as there is room for. reading_rows: most rows for
        texts that are not read yet, while any sequence decodes (None: as many as there is room for).
        """
        step = Outline(rows=self.step_tokens, judging=self.judging_rows)
        reading: list[Sequence] = []
        for sequence in [*self.running]:
            if sequence.pending > 1:
                reading.append(sequence)
            elif step.rows and sequence.request.id not in step.preempted and self.make_room(sequence, 1, step):
                step.put(sequence, 1)
        kept = min(step.rows, sum(len(guess) for request_id, guess in guesses.items() if request_id in step.slices))
        most = step.rows if reading_rows is None or not step.slices else reading_rows
        kept = max(kept, step.rows - most)
        step.rows -= kept
        self.plan_reading(reading, step)
        step.rows += kept
        self.plan_guesses(guesses, step)
        return Plan(slices=tuple(step.slices.values())) if step.slices else None

    def plan_reading(self, reading: list[Sequence], step: Outline) -> None:
        """Fill the step with pieces of texts not read yet, of running and waiting sequences in one order."""
        readers = iter(reading)
        reader = next(readers, None)
        is_open = True
        while step.rows:
            first = self.next_waiting(step) if is_open else None
            if first and (reader is None or place(first) < place(reader)):
                is_open = self.admit(first, step)
            elif reader is None:
                break
            else:
                count = min(reader.pending, reader.most_rows(step.rows, step.judging))
                if count and reader.request.id not in step.preempted and self.make_room(reader, count, step):
                    step.put(reader, count)
                reader = next(readers, None)

    def next_waiting(self, step: Outline) -> Sequence | None:
        """The first that waits; one whose prompt must be judged is passed over while the step has no rows for that."""
        if step.judging:
            return self.waiting.first
        return next((sequence for sequence in self.waiting if not sequence.is_scoring), None)

    def admit(self, sequence: Sequence, step: Outline) -> bool:
        """Start a waiting sequence; False when it must go on waiting, and all behind it too.

        It waits for a free place, for blocks for all of its tokens, and while somebody reads what it could then
        share. Running sequences of a worse priority and place give way to it where that is enough.
        """
        worse = self.worse_than(sequence)
        is_full = len(self.running) >= self.max_sequences
        if sequence.request.id in step.preempted or (is_full and not worse):
            return False
        if any(self.blocks.is_being_read(sequence, reading) for reading in self.running):
            return False
        most = min(step.rows, step.judging) if sequence.is_scoring else step.rows
        count = self.begin(sequence, most)
        while not count and worse and self.would_fit(sequence, worse):
            self.preempt(worse.pop(), step)
            count = self.begin(sequence, most)
        if count:
            self.waiting.take(sequence)
            insort(self.running, sequence, key=place)
            step.put(sequence, count)
        return bool(count)

    @property
    def may_admit(self) -> bool:
        """Whether one that waits might begin with the next step: there is a place, or somebody gives way."""
        first = self.waiting.first
        return first is not None and (len(self.running) < self.max_sequences or bool(self.worse_than(first)))

    def begin(self, sequence: Sequence, most: int) -> int:
        """Take blocks for a waiting sequence: how many tokens it may compute now; 0 without a place or blocks."""
        return self.blocks.admit(sequence, most) if len(self.running) < self.max_sequences else 0

    def worse_than(self, sequence: Sequence) -> list[Sequence]:
        """Running sequences that give way to this one, the last in the order last."""
        priority, own = sequence.request.params.priority, place(sequence)
        return [item for item in self.running if item.request.params.priority > priority and place(item) > own]

    def would_fit(self, sequence: Sequence, worse: Many[Sequence]) -> bool:
        """Whether the blocks of these, with the free ones, could hold the sequence."""
        held = sum(len(item.global_blocks) for item in worse)
        return self.blocks.blocks_for(len(sequence.tokens)) <= held + len(self.blocks.free_global)

    def make_room(self, sequence: Sequence, count: int, step: Outline) -> bool:
        """Reserve blocks for a running sequence; those behind it give way. False when it had to give way itself."""
        while not self.blocks.reserve(sequence, count):
            last = self.running[-1]
            self.preempt(last, step)
            if last is sequence:
                return False
        return True

    def plan_guesses(self, guesses: Mapping[int, tuple[int, ...]], step: Outline) -> None:
        """Let guesses run with what budget, answers and free blocks allow; never at another sequence's cost."""
        for request_id, guess in guesses.items():
            item = step.slices.get(request_id)
            if item is None or not item.samples or item.sequence.request.constraint:
                continue  # a constraint knows what may follow known tokens only
            generated = len(item.sequence.tokens) - len(item.sequence.request.prompt)
            fitting = guess[: max(0, min(step.rows, item.sequence.request.max_tokens - generated - 1))]
            if fitting and self.blocks.reserve(item.sequence, item.count + len(fitting)):
                step.rows += item.count
                step.put(item.sequence, item.count, fitting)

    def preempt(self, sequence: Sequence, step: Outline) -> None:
        """A running sequence waits again at its place, without its blocks."""
        step.drop(sequence)
        self.running.remove(sequence)
        self.blocks.release(sequence)
        self.preemptions += 1
        self.waiting.put_back(sequence)

    def commit(self, plan: Plan, drawn: Many[Drawn]) -> list[Event]:
        """Take over the step's results: append the new tokens, finish what is finished."""
        events: list[Event] = []
        row = 0
        for item in plan.slices:
            if item.judging:
                item.sequence.scores += drawn[row : row + len(item.judging)]
                row += len(item.judging)
            item.sequence.computed += item.count
            self.blocks.remember(item.sequence)
            if item.samples:
                stop = row + len(item.guesses) + 1
                events += self.extend(item, drawn[row:stop])
                row = stop
        return events

    def extend(self, item: Slice, drawn: Many[Drawn]) -> list[Event]:
        """Append what was drawn, up to and including the first token that was guessed wrong."""
        events: list[Event] = []
        sequence = item.sequence
        for number, token in enumerate(drawn):
            sequence.tokens.append(token.token)
            if sequence.request.constraint:
                sequence.request.constraint.accept(token.token)
            events.append(event_of(sequence, token))
            if events[-1].finish:
                self.remove(sequence)
                break
            if number == len(item.guesses) or token.token != item.guesses[number]:
                break
            sequence.computed += 1  # the guess was right, so its keys and values are
        return events

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence from whichever queue holds it and free its blocks."""
        sequence.is_over = True
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.drop(sequence)
        self.blocks.retire(sequence)


def event_of(sequence: Sequence, drawn: Drawn) -> Event:
    """What is told of a sequence's newest token."""
    request, generated = sequence.request, len(sequence.tokens) - len(sequence.request.prompt)
    finish: FinishReason | None = None
    if drawn.token in request.stop_ids:
        finish = "stop"
    elif generated >= request.max_tokens:
        finish = "length"
    return Event(
        request_id=request.id,
        drawn=drawn,
        finish=finish,
        cached=sequence.cached or 0,
        scores=tuple(sequence.scores) if generated == 1 else (),
    )
