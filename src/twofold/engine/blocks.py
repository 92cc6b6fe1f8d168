"""Bookkeeping of the paged cache: two pools of blocks, one for global layers and one for local (chunked) layers.

A local layer never looks back across its chunk, so a sequence gives its local blocks back when the chunk is over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twofold.engine.request import Sequence


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """Sizes of the cache. block_size divides chunk, so that every chunk begins with a fresh block."""

    block_size: int
    global_blocks: int
    local_blocks: int
    chunk: int | None


def block_size_for(chunk: int | None, preferred: int = 32) -> int:
    """The largest power of two that divides the chunk, at most `preferred`."""
    size = preferred
    while chunk is not None and chunk % size:
        size //= 2
    return size


def plan_layout(chunk: int | None, cache_tokens: int, step_tokens: int, max_sequences: int) -> CacheLayout:
    """A cache for `cache_tokens` tokens in all, of at most `max_sequences` sequences.

    A sequence holds at most one chunk and one step of local tokens, never more than it has tokens.
    """
    size = block_size_for(chunk)
    global_blocks = -(-cache_tokens // size)
    if chunk is None:
        return CacheLayout(block_size=size, global_blocks=global_blocks, local_blocks=0, chunk=None)
    per_sequence = -(-(chunk + step_tokens) // size)
    local_blocks = min(global_blocks, max_sequences * per_sequence)
    return CacheLayout(block_size=size, global_blocks=global_blocks, local_blocks=local_blocks, chunk=chunk)


class Blocks:
    """Hands out the blocks of both pools and takes them back."""

    def __init__(self, layout: CacheLayout) -> None:
        self.layout = layout
        self.free_global = deque(range(layout.global_blocks))
        self.free_local = deque(range(layout.local_blocks))

    def reserve(self, sequence: Sequence, count: int) -> bool:
        """Make room for `count` more tokens of the sequence; all or nothing, False when blocks are short."""
        stop = sequence.computed + count
        self.leave_old_chunks(sequence)
        more_global = self.blocks_for(stop) - len(sequence.global_blocks)
        more_local = 0
        if self.layout.chunk is not None:
            more_local = self.blocks_for(stop - sequence.local_base) - len(sequence.local_blocks)
        if more_global > len(self.free_global) or more_local > len(self.free_local):
            return False
        sequence.global_blocks += [self.free_global.popleft() for _ in range(more_global)]
        sequence.local_blocks += [self.free_local.popleft() for _ in range(more_local)]
        return True

    def release(self, sequence: Sequence) -> None:
        """Take back everything; the sequence must then be computed from its first token."""
        self.free_global.extend(sequence.global_blocks)
        self.free_local.extend(sequence.local_blocks)
        sequence.global_blocks, sequence.local_blocks = [], []
        sequence.local_base = sequence.computed = 0

    def leave_old_chunks(self, sequence: Sequence) -> None:
        """Free the local blocks that no later token can see: those before the chunk of the next token."""
        if self.layout.chunk is None:
            return
        base = sequence.computed // self.layout.chunk * self.layout.chunk
        old = min((base - sequence.local_base) // self.layout.block_size, len(sequence.local_blocks))
        self.free_local.extend(sequence.local_blocks[:old])
        del sequence.local_blocks[:old]
        sequence.local_base = base

    def fits_now(self, tokens: int) -> bool:
        """Whether a sequence of this length could be admitted and computed without taking blocks from others."""
        return self.blocks_for(tokens) <= len(self.free_global)

    def holds(self, tokens: int) -> bool:
        """Whether one sequence of this length fits into the empty cache."""
        return tokens <= self.layout.global_blocks * self.layout.block_size

    def blocks_for(self, tokens: int) -> int:
        """Blocks that cover this many tokens."""
        return -(-tokens // self.layout.block_size)
