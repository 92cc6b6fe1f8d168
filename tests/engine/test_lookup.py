"""Guesses from the text itself."""

from __future__ import annotations

from twofold.engine.lookup import Lookup


def test_a_guess_is_what_followed_the_latest_tokens() -> None:
    lookup = Lookup()
    assert lookup.guess([1, 2, 3, 4, 1, 2], 3) == (3, 4, 1)
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9], 3) == ()
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9, 1, 2], 2) == (9, 1)  # the latest occurrence counts
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9, 1, 2, 3], 9) == (4, 1, 2, 9, 1, 2, 3)  # the longest ending counts


def test_a_short_text_guesses_nothing() -> None:
    assert Lookup().guess([], 3) == ()
    assert Lookup().guess([5], 3) == ()
    assert Lookup().guess([5, 5, 5], 0) == ()
