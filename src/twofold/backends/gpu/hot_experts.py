"""Which experts have a slot on the device: those used most often of late stay.

Layers come round in a circle, so where two experts are used equally often, the one used last is needed again last and
gives way. (Throwing out the least recently used one, as caches usually do, would throw out the next one needed.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]
"""A layer with experts, and one of its experts."""
HALVING_CALLS = 8192
"""After so many steps of a layer, uses so far count half: what was used long ago is forgotten."""


@dataclass
class Uses:
    """hits: experts that were there when a step needed them; misses: those that were copied; bytes of all copies."""

    hits: int = 0
    misses: int = 0
    copied_bytes: int = 0


class HotExperts:
    """Slots, who holds them, and how often everybody was used."""

    def __init__(self, slots: int) -> None:
        self.slot_of: dict[Key, int] = {}
        self._free = list(reversed(range(slots)))
        self._scores: dict[Key, float] = {}
        self._used_at: dict[Key, int] = {}
        self._calls = 0
        self.slots = slots

    def use(self, keys: Sequence[Key], kept: Collection[Key] = ()) -> list[tuple[Key, int]]:
        """Give each of these a slot; returns those that did not have one, with theirs. No key of `kept` loses its own.

        All of them together must not be more than there are slots.
        """
        needed = {*keys, *kept}
        assert len(needed) <= self.slots, "who asks takes no more than there are slots"
        self._calls += 1
        if self._calls % HALVING_CALLS == 0:
            self._scores = {key: score / 2 for key, score in self._scores.items()}
        for key in keys:
            self._scores[key] = self._scores.get(key, 0.0) + 1.0
            self._used_at[key] = self._calls
        given = []
        for key in keys:
            if key not in self.slot_of:
                self.slot_of[key] = self._free.pop() if self._free else self._take(needed)
                given.append((key, self.slot_of[key]))
        return given

    def _take(self, needed: Collection[Key]) -> int:
        """The slot of whoever is used least, of equals the one used last."""
        others = (key for key in self.slot_of if key not in needed)
        return self.slot_of.pop(min(others, key=lambda key: (self._scores[key], -self._used_at[key])))
