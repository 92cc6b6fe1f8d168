"""Guesses from the text itself (prompt look-up): what followed the latest tokens when they last occurred.

Answers that quote a passage, JSON with recurring keys, edited code. Costs next to nothing and has often no guess.

Source: Saxena 2023 (prompt lookup decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

GRAMS = (4, 3, 2)
"""Lengths of the endings that are looked up, longest first."""


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
