"""Blocks are held, let go, found again by content, and reused in the right order."""

from __future__ import annotations

from twofold.engine.pool import Pool, first_key, next_key


def test_what_was_let_go_is_found_until_its_block_is_needed() -> None:
    pool = Pool(3)
    keys = [next_key(first_key(b""), [number]) for number in range(2)]
    blocks = pool.take(2)
    for block, key in zip(blocks, keys, strict=True):
        pool.remember(block, key)
    pool.give_back(blocks)
    assert pool.share(keys) == blocks
    pool.give_back(blocks)
    assert pool.take(1) == [2]  # never held, so it goes first
    assert pool.take(1) == [blocks[1]]  # the end of a prefix before its beginning
    assert keys[1] not in pool.block_of
    assert pool.block_of == {keys[0]: blocks[0]}


def test_a_block_is_free_when_its_last_holder_lets_go() -> None:
    pool = Pool(2)
    [block] = pool.take(1)
    key = next_key(first_key(b""), [1, 2])
    pool.remember(block, key)
    assert pool.share([key]) == [block]
    pool.give_back([block])
    assert block not in pool.free
    pool.give_back([block])
    assert list(pool.free) == [1, block]


def test_a_block_without_a_key_is_reused_first() -> None:
    pool = Pool(2)
    blocks = pool.take(2)
    pool.remember(blocks[0], next_key(b"", [1]))
    pool.give_back(blocks)
    assert list(pool.free) == [blocks[1], blocks[0]]


def test_keys_depend_on_everything_before_and_on_the_salt() -> None:
    start = first_key(b"one")
    keys = {
        next_key(start, [1, 2]), next_key(start, [2, 1]), next_key(first_key(b"two"), [1, 2]),
        next_key(next_key(start, [1]), [2]), next_key(next_key(start, [1, 2]), [1, 2]),
    }  # fmt: skip
    assert len(keys) == 5
