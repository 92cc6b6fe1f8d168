from __future__ import annotations

import itertools
import random

from twofold.bench.proof.drawing import LINE_HEIGHT, apart, shortened


def test_lines_of_text_keep_apart_and_stay_within() -> None:
    chance = random.Random(1)
    for _ in range(300):
        wanted = [chance.uniform(-20, 220) for _ in range(chance.randint(1, 8))]
        found = apart(wanted, 0, 200)
        ordered = sorted(found)
        assert all(-1e-9 <= place <= 200 + 1e-9 for place in found)
        assert all(after - before >= LINE_HEIGHT - 1e-9 for before, after in itertools.pairwise(ordered))
        assert [found.index(place) for place in ordered] == sorted(range(len(wanted)), key=lambda i: wanted[i])


def test_lines_with_room_stay_where_they_are() -> None:
    assert apart([150, 10, 80], 0, 200) == [150, 10, 80]
    assert apart([100, 100], 0, 200) == [100, 100 + LINE_HEIGHT]


def test_too_many_lines_share_the_room() -> None:
    found = apart([50.0] * 40, 0, 100)
    assert min(found) >= -1e-9
    assert max(found) <= 100 + 1e-9


def test_long_names_are_cut_with_a_sign() -> None:
    assert shortened("short", 10) == "short"
    assert shortened("a very long name", 8) == "a very…"
