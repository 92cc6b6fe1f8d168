"""Which group of weights gets which bits: the least damage within a size, or the least size within a damage.

Damages of groups are added up, as small independent errors may be. What is solved is a knapsack in which every group
takes exactly one of its options, by dynamic programming over the bytes beyond the smallest possible size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twofold.ops.packed import Format

STEPS = 2**16
"""Bytes are counted in this many steps: a group's share of the size is rounded up by one step at most."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a group may become: its bytes, and the KL divergence in nats when only this group is rounded."""

    format: Format
    size_bytes: int
    damage: float


Options = Mapping[str, Sequence[Option]]
"""The options of every group."""
Chosen = dict[str, Option]


def least_damage(options: Options, most_bytes: int) -> Chosen:
    """The options with the least total damage that take at most `most_bytes`, which must hold the smallest ones.

    Among equals the smaller ones, then the first.
    """
    room = most_bytes - least_bytes(options)
    assert room >= 0, "the smallest options are too many bytes"
    table = Table(options, room)
    return table.chosen(len(table.damage) - 1)


def least_size(options: Options, most_damage: float) -> Chosen:
    """The smallest options whose total damage is at most `most_damage`, which the best ones must reach."""
    table = Table(options, sum(max(sizes_of(found)) - min(sizes_of(found)) for found in options.values()))
    enough = np.flatnonzero(table.damage <= most_damage)
    assert len(enough), "the best options do more damage"
    return table.chosen(int(enough[0]))


def least_bytes(options: Options) -> int:
    """Bytes of the smallest options."""
    return sum(min(sizes_of(found)) for found in options.values())


def sizes_of(found: Sequence[Option]) -> list[int]:
    """Bytes of each option."""
    return [option.size_bytes for option in found]


class Table:
    """damage[u]: the least total damage with at most `u` steps of bytes beyond the smallest options."""

    def __init__(self, options: Options, room: int) -> None:
        self.options = options
        self.step = max(1, -(-room // STEPS))
        self.damage = np.zeros(room // self.step + 1)
        self.picks = {name: self.add(found) for name, found in options.items()}

    def add(self, found: Sequence[Option]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Let another group take part; gives the index of its option for every number of steps."""
        total = np.full((len(found), len(self.damage)), np.inf)
        for index, steps in enumerate(self.steps_of(found)):
            if steps < len(self.damage):
                total[index, steps:] = self.damage[: len(self.damage) - steps] + found[index].damage
        order = np.argsort(sizes_of(found), kind="stable")
        picks: np.ndarray[tuple[int], np.dtype[np.int64]] = order[total[order].argmin(axis=0)]
        self.damage = np.take_along_axis(total, picks[None], axis=0)[0]
        return picks

    def steps_of(self, found: Sequence[Option]) -> list[int]:
        """Steps of each option beyond the group's smallest one, rounded up."""
        least = min(sizes_of(found))
        return [-(-(size - least) // self.step) for size in sizes_of(found)]

    def chosen(self, steps: int) -> Chosen:
        """The option of every group behind damage[steps]."""
        result: Chosen = {}
        for name in reversed(list(self.options)):
            index = int(self.picks[name][steps])
            result[name] = self.options[name][index]
            steps -= self.steps_of(self.options[name])[index]
        return {name: result[name] for name in self.options}
