"""Slots go to experts in use; what was used most stays."""

from __future__ import annotations

import random

import pytest

from twofold.backends.gpu.hot_experts import HALVING_CALLS, HotExperts, Key


def uses(hot: HotExperts, keys: list[Key]) -> int:
    """Misses of these keys, one after the other."""
    return sum(len(hot.use([key])) for key in keys)


def test_an_expert_gets_a_free_slot_and_keeps_it() -> None:
    hot = HotExperts(3)
    assert [key for key, _ in hot.use([(0, 1), (0, 2)])] == [(0, 1), (0, 2)]
    assert hot.use([(0, 2)]) == []
    hot.use([(1, 1)])
    assert sorted(hot.slot_of.values()) == [0, 1, 2]


def test_who_is_used_often_stays_and_who_is_needed_now_never_goes() -> None:
    hot = HotExperts(2)
    uses(hot, [(0, 0)] * 5 + [(1, 0)])
    assert hot.use([(2, 0)]) == [((2, 0), hot.slot_of[(2, 0)])]
    assert set(hot.slot_of) == {(0, 0), (2, 0)}
    hot.use([(3, 0)], kept=[(2, 0)])
    assert set(hot.slot_of) == {(2, 0), (3, 0)}


def test_layers_in_a_circle_find_most_of_their_experts() -> None:
    hot = HotExperts(40)
    circle: list[Key] = [(layer, 3) for layer in range(48)]
    uses(hot, circle * 3)
    assert uses(hot, circle * 10) <= 10 * 48 * 0.25  # the least recently used one going, it would be all of them


def test_what_was_used_long_ago_is_forgotten() -> None:
    hot = HotExperts(2)
    uses(hot, [(0, 0)] * 1000)
    others: list[Key] = [(1, 0), (1, 1)]
    uses(hot, others * HALVING_CALLS)
    assert set(hot.slot_of) == set(others)


def test_more_than_there_are_slots_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        HotExperts(2).use([(0, 0), (0, 1)], kept=[(0, 2)])


def test_no_slot_has_two_experts_and_no_expert_two_slots() -> None:
    draw = random.Random(4)
    hot = HotExperts(7)
    held: dict[int, Key] = {}
    for _ in range(3000):
        keys = draw.sample([(layer, expert) for layer in range(4) for expert in range(6)], draw.randint(1, 4))
        kept = draw.sample(sorted(hot.slot_of), min(len(hot.slot_of), draw.randint(0, 3)))
        before = dict(hot.slot_of)
        for key, slot in hot.use(keys, kept):
            held[slot] = key
        assert {key: slot for slot, key in held.items()} == hot.slot_of
        assert sorted(held) == list(range(len(held)))
        assert len(held) <= 7
        assert all(hot.slot_of[key] == before[key] for key in kept)
