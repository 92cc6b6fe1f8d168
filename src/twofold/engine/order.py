"""Who goes first: by priority, within a priority the owners in turn, and nobody is overtaken for ever.

A sequence gets its place when it arrives and keeps it, also when it has to give way and waits again:

    place = turn + STRIDE * priority            the smallest goes first, on ties the one that came first
    turn  = 1 + the larger of (the owner's latest turn at this priority, the turn served now)

The turns of one owner count up, so of several owners who queue, each gets one request per turn, however many wait. One
owner alone is served in order of arrival.

Nobody starves. Say a sequence arrives behind `own` others of its owner and priority. Of those that arrive later, at
most `own + STRIDE * (its priority - theirs)` per owner and priority overtake it: their turns are distinct, and all lie
after the turn served at its arrival and before the one that puts them behind it.

Source: Golestani 1994 (self-clocked fair queueing), with priorities as a head start.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from twofold.engine.request import Sequence

STRIDE = 256
"""How many turns one step of priority is worth; as many requests may wait by default."""


def place(sequence: Sequence) -> tuple[int, int]:
    """Smaller goes first."""
    return sequence.turn + STRIDE * sequence.request.params.priority, sequence.arrival


class Waiting:
    """The sequences that wait, in their order. served: the latest turn that was taken."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.latest: dict[tuple[bytes, int], int] = {}
        self.served = 0
        self.arrivals = 0

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self.sequences)

    @property
    def first(self) -> Sequence | None:
        """Who goes next."""
        return self.sequences[0] if self.sequences else None

    def arrive(self, sequence: Sequence) -> None:
        """A new sequence gets its place."""
        queue = queue_of(sequence)
        sequence.turn = self.latest[queue] = max(self.latest.get(queue, 0), self.served) + 1
        sequence.arrival = self.arrivals
        self.arrivals += 1
        insort(self.sequences, sequence, key=place)

    def put_back(self, sequence: Sequence) -> None:
        """One that ran waits again, where it was."""
        insort(self.sequences, sequence, key=place)

    def take(self, sequence: Sequence) -> None:
        """It runs now."""
        self.sequences.remove(sequence)
        self.served = max(self.served, sequence.turn)
        self.forget_if_empty()

    def drop(self, sequence: Sequence) -> None:
        """It waits no longer. Its turn is the next one's of its owner, unless it was served before."""
        self.sequences.remove(sequence)
        if sequence.cached is None:  # never admitted
            queue = queue_of(sequence)
            for later in self.sequences:
                if queue_of(later) == queue and later.turn > sequence.turn:
                    later.turn -= 1
            self.latest[queue] -= 1
            self.sequences.sort(key=place)
        self.forget_if_empty()

    def forget_if_empty(self) -> None:
        """When nobody waits every turn was served, and so nothing need be kept of the owners."""
        if not self.sequences:
            self.latest.clear()


def queue_of(sequence: Sequence) -> tuple[bytes, int]:
    """Whose turns it counts among."""
    return sequence.request.owner, sequence.request.params.priority
