"""Which tokens may come next."""

from __future__ import annotations

from twofold.engine.masks import common, last_of, mask_of


def test_a_mask_has_the_bits_of_its_ids() -> None:
    assert mask_of([0, 9, 15], 17) == bytes([1, 0b10000010, 0])


def test_what_two_masks_allow_is_what_both_allow_and_ids_beyond_one_are_not() -> None:
    assert common(b"\x0f\xff", b"\x3c") == b"\x0c"
    assert common(None, b"\x3c") == b"\x3c"
    assert common(b"\x3c", None) == b"\x3c"
    assert common(None, None) is None


def test_the_last_token_of_a_sequence_is_named_where_the_others_have_just_come() -> None:
    bad = ((5,), (1, 2), (3, 1, 4))
    assert last_of(bad, []) == {5}
    assert last_of(bad, [3, 1]) == {5, 2, 4}
    assert last_of(bad, [1, 3]) == {5}
