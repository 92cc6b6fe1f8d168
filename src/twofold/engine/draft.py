"""Guessing several tokens at once, so that one step of the network can confirm more than one.

A guess is what followed the sequence's latest tokens when they last occurred in it (prompt look-up): answers that
quote a passage, JSON with recurring keys, edited code. The network runs the guessed tokens as ordinary rows of the
batch and the sampler draws every row by its own seed and step; guesses are kept as far as they equal what was drawn.
So an answer is token for token the one without guessing, whatever the policy decides.

Source: Leviathan et al. 2023 (speculative decoding); Saxena 2023 (prompt lookup decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GRAMS = (4, 3, 2)
"""Lengths of the endings that are looked up, longest first."""
LENGTHS = (0, 1, 3, 7)
"""Numbers of guesses the policy chooses from; with the known token they make 1, 2, 4 and 8 rows."""
PROBE_EVERY = 24
MEMORY = 0.9


@dataclass(eq=False)
class Lookup:
    """Where each n-gram of one sequence last ended; grows with the sequence."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    indexed: int = 0

    def guess(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` tokens that may come next; () when the latest tokens never occurred before."""
        for end in range(self.indexed, len(tokens)):  # n-grams that a token follows
            for size in GRAMS:
                if end >= size:
                    self.ends[tuple(tokens[end - size : end])] = end
        self.indexed = max(self.indexed, len(tokens))
        if most < 1:
            return ()
        for size in GRAMS:
            found = self.ends.get(tuple(tokens[-size:])) if len(tokens) >= size else None
            if found is not None:
                return tuple(tokens[found : found + most])
        return ()


@dataclass(eq=False)
class DraftPolicy:
    """Chooses how many tokens to guess by what it has measured: tokens per second of steps with 0, 1, 3 or 7 guesses.

    Extra rows cost what they cost on this machine with this network (experts read for one row only, arithmetic), so
    guessing switches itself off where it does not pay. Every PROBE_EVERY-th guess tries the next longer length and
    then the next shorter one.
    """

    most: int
    rates: dict[int, float] = field(default_factory=dict)
    asked: int = 0

    def length(self) -> int:
        """How many tokens to guess now."""
        allowed = [length for length in LENGTHS if length <= self.most]
        self.asked += 1
        untried = [length for length in allowed if length not in self.rates]
        if untried:
            return untried[0]
        best = max(allowed, key=lambda length: self.rates[length])
        if self.asked % PROBE_EVERY == 0:
            step = 1 if self.asked // PROBE_EVERY % 2 else -1
            place = min(max(allowed.index(best) + step, 0), len(allowed) - 1)
            return allowed[place]
        return best

    def learn(self, guessed: int, tokens: int, seconds: float) -> None:
        """Take over what a step that could have guessed did: `tokens` confirmed in `seconds`."""
        length = max(length for length in LENGTHS if length <= guessed)
        rate = tokens / seconds
        self.rates[length] = rate if length not in self.rates else MEMORY * self.rates[length] + (1 - MEMORY) * rate
