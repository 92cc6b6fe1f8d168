"""Blocks of one kind of layer: who holds them, and what the ones that nobody holds still contain.

A block's key stands for everything up to its end: the tokens of the whole prefix and the salt of whoever sent them. A
block that is let go keeps its content until it is needed for something else, the least recently held first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

KEY_BYTES = 16


def first_key(salt: bytes) -> bytes:
    """What the key of a first block continues. Other salts give other keys."""
    return blake2b(salt, digest_size=KEY_BYTES, person=b"twofold-prefix").digest()


def next_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a block of these tokens that follows the block with key `before`."""
    return blake2b(before + array("q", tokens).tobytes(), digest_size=KEY_BYTES).digest()


def prefix_keys(before: bytes, tokens: Sequence[int], size: int) -> list[bytes]:
    """Keys of the full blocks of `size` among these tokens, which follow the block with key `before`."""
    keys: list[bytes] = []
    for start in range(0, len(tokens) - size + 1, size):
        keys.append(next_key(keys[-1] if keys else before, tokens[start : start + size]))
    return keys


class Pool:
    """free: blocks that nobody holds, in the order they will be given out. holders: how many hold each block.

    `evicted` is told which block with which key is about to be given out for something else.
    """

    def __init__(self, size: int, evicted: Callable[[int, bytes], None] | None = None) -> None:
        self.evicted = evicted
        self.free = OrderedDict.fromkeys(range(size))
        self.holders = [0] * size
        self.key_of: dict[int, bytes] = {}
        self.block_of: dict[bytes, int] = {}

    def take(self, count: int) -> list[int]:
        """So many free blocks, their contents forgotten."""
        blocks = [self.free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.holders[block] = 1
            key = self.key_of.pop(block, None)
            if key is not None:
                del self.block_of[key]
                if self.evicted:
                    self.evicted(block, key)
        return blocks

    def share(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks with these contents, each with one holder more."""
        blocks = [self.block_of[key] for key in keys]
        for block in blocks:
            self.free.pop(block, None)
            self.holders[block] += 1
        return blocks

    def give_back(self, blocks: Sequence[int]) -> None:
        """One holder less. The end of a prefix is reused before its beginning, blocks without a key before all."""
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.free[block] = None
                if block not in self.key_of:
                    self.free.move_to_end(block, last=False)

    def remember(self, block: int, key: bytes) -> None:
        """A held block is full and contains this; another block with the same content stays the known one."""
        if key not in self.block_of:
            self.block_of[key] = block
            self.key_of[block] = key
