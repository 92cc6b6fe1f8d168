"""Guessing several tokens at once, so that one step of the network can confirm more than one.

Guesses come from the text itself (engine.lookup) or from a draft model (engine.draft); engine.policy decides how many
and from which. The network runs them as ordinary rows of the batch and the sampler draws every row by its own seed
and step; guesses are kept as far as they equal what was drawn. So an answer is token for token the one without
guessing, whatever is guessed and whatever the policy decides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from twofold.engine.draft import DraftModel, Wish
from twofold.engine.plan import Plan
from twofold.engine.policy import Choice, GuessPolicy, Source
from twofold.engine.request import Event, Sequence

MOST_SEQUENCES = 2
"""Guessing is for few sequences: many fill a step by themselves."""
NEAR = 16
"""A draft model that is so few tokens behind reads them along with its first guess."""
EXPECTED_TOKENS = 32
"""An answer is expected to go on for as long as it is already, and at least for so many tokens."""


@dataclass(eq=False)
class GuessStats:
    """What guessing did: steps it had a say in, tokens proposed and kept by source, and the draft model's time.

    draft_s: seconds of the draft model, of which read_s went into reading read_tokens tokens of text to catch up.
    """

    steps: int = 0
    proposed: dict[Source, int] = field(default_factory=lambda: {"lookup": 0, "draft": 0})
    accepted: dict[Source, int] = field(default_factory=lambda: {"lookup": 0, "draft": 0})
    draft_s: float = 0.0
    read_s: float = 0.0
    read_tokens: int = 0


class Guesser:
    """Proposes guesses before a step and learns from it afterwards."""

    def __init__(self, policy: GuessPolicy, draft: DraftModel | None = None) -> None:
        self.policy = policy
        self.draft = draft
        self.stats = GuessStats()
        self.sources: dict[int, Source] = {}
        self.started = 0.0
        self.drafted_s = 0.0

    def anew(self) -> Guesser:
        """The same guesser before it has learned anything."""
        return Guesser(self.policy.anew(), self.draft)

    def without_draft(self) -> Guesser:
        """The same guesser, fresh and with look-up alone."""
        return Guesser(self.policy.without_draft())

    def begin(self) -> None:
        """A step begins for which nothing is proposed; follow with `learn`."""
        self.started, self.drafted_s, self.sources = time.perf_counter(), 0.0, {}

    def is_quiet(self, sequences: int) -> bool:
        """Whether nothing will be proposed for the next step, of so many sequences only, whatever their tokens."""
        self.policy.beside_s = 0.0
        return self.draft is None and not any(choice.length for choice in self.policy.choices(sequences))

    def propose(self, running: Many[Sequence], beside_s: float = 0.0) -> dict[int, tuple[int, ...]]:
        """Guesses by request id for sequences that each need their next token; follow with `learn`.

        beside_s: seconds the step will take for the prompts of others. They make guessing more worthwhile, for what
        the step confirms it confirms in a longer time.
        """
        self.policy.beside_s = beside_s
        self.begin()
        found: dict[int, tuple[int, ...]] = {}
        if self.draft is not None:
            self.draft.keep_only({sequence.request.id for sequence in running})
        behind = sum(self.draft.behind(sequence) for sequence in running) if self.draft else 0
        for choice in self.policy.choices(len(running), behind):
            wishes = [
                Wish(sequence=sequence, most=most)
                for sequence in running
                if sequence.request.id not in found and (most := min(choice.length, left(sequence))) > 0
                if sequence.request.constraint is None  # it knows what may follow known tokens only
            ]
            if not wishes:
                continue
            guesses = look_up(wishes) if choice.source == "lookup" else self.drafted(wishes, choice, len(running))
            found |= guesses
            self.sources |= dict.fromkeys(guesses, choice.source)
        return found

    def drafted(self, wishes: Many[Wish], choice: Choice, sequences: int) -> dict[int, tuple[int, ...]]:
        """Guesses of the draft model, for sequences that it has read or that are worth reading."""
        assert self.draft is not None, "only a draft model makes the policy choose one"
        ready = [wish for wish in wishes if self.is_read(wish, choice, sequences)]
        start = time.perf_counter()
        guesses = self.draft.guess(ready)
        seconds = time.perf_counter() - start
        longest = max((len(guess) for guess in guesses.values()), default=0)
        if longest:
            self.policy.learn_draft(longest, seconds)
        self.count_draft(seconds)
        return {request_id: guess for request_id, guess in guesses.items() if guess}

    def is_read(self, wish: Wish, choice: Choice, sequences: int) -> bool:
        """Whether the draft model has read a sequence; where it pays, it does so now."""
        assert self.draft is not None, "only a draft model makes the policy choose one"
        behind = self.draft.behind(wish.sequence)
        if behind <= NEAR:
            return True
        record = self.policy.records["draft"]
        if not record.is_probing and not self.policy.pays_to_read(behind, to_come(wish.sequence), choice, sequences):
            return False
        start = time.perf_counter()
        is_read = self.draft.read(wish.sequence)
        seconds = time.perf_counter() - start
        self.count_draft(seconds)
        if is_read:
            self.policy.learn_reading(behind - 1, seconds)  # all but the newest token
            self.stats.read_s += seconds
            self.stats.read_tokens += behind - 1
        return is_read

    def count_draft(self, seconds: float) -> None:
        """Add to the time the draft model took."""
        self.drafted_s += seconds
        self.stats.draft_s += seconds

    def learn(self, plan: Plan, events: Many[Event]) -> None:
        """Take over what the step did with the guesses of `propose`."""
        whole_s = time.perf_counter() - self.started
        self.stats.steps += 1
        rows = sum(item.rows for item in plan.slices)
        self.policy.learn_step(None if plan.reading_rows else rows, whole_s - self.drafted_s, whole_s)
        drawn = tokens_by_request(events)
        for item in plan.slices:
            request_id = item.sequence.request.id
            if item.guesses:
                self.learn_guess(self.sources[request_id], item.guesses, drawn[request_id])

    def learn_guess(self, source: Source, guesses: tuple[int, ...], drawn: Many[int]) -> None:
        """Compare a guess with what was drawn; an answer that ended leaves the rest of its guess undecided."""
        kept = 0
        while kept < min(len(guesses), len(drawn)) and guesses[kept] == drawn[kept]:
            kept += 1
        self.policy.records[source].learn(kept, is_refuted=kept < min(len(guesses), len(drawn)))
        self.stats.proposed[source] += len(guesses)
        self.stats.accepted[source] += kept


def look_up(wishes: Many[Wish]) -> dict[int, tuple[int, ...]]:
    """What followed the latest tokens of each sequence when they last occurred in it."""
    found = {wish.sequence.request.id: wish.sequence.lookup.guess(wish.sequence.tokens, wish.most) for wish in wishes}
    return {request_id: guess for request_id, guess in found.items() if guess}


def left(sequence: Sequence) -> int:
    """Tokens that may still be guessed: the answer's room, less the token that the step draws anyway."""
    return sequence.request.max_tokens - len(sequence.generated) - 1


def to_come(sequence: Sequence) -> int:
    """Tokens the answer is expected to go on for."""
    return min(left(sequence) + 1, max(len(sequence.generated), EXPECTED_TOKENS))


def tokens_by_request(events: Many[Event]) -> Mapping[int, list[int]]:
    """The tokens of each request, in order."""
    found: dict[int, list[int]] = {}
    for event in events:
        found.setdefault(event.request_id, []).append(event.drawn.token)
    return found
