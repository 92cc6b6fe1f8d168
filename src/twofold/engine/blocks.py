"""Bookkeeping of the paged cache: two pools of blocks, one for global layers and one for local (chunked) layers.

A local layer never looks back across its chunk, so a sequence gives its local blocks back when the chunk is over.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from twofold.engine.pool import Pool, first_key, next_key
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


Kind = Literal["global", "local"]
"""Which layers a block is for."""


class Keeper(Protocol):
    """Whoever keeps what was computed for longer than the cache does."""

    def left(self, sequence: Sequence) -> None:
        """A sequence has come to its end; it still holds its blocks."""

    def evicted(self, kind: Kind, block: int, key: bytes) -> None:
        """A block that nobody holds is about to be used for something else; it still contains what its key says."""


class Blocks:
    """Hands out the blocks of both pools and takes them back.

    keeps_prefixes: full blocks are found again by their content, so that a prompt begins where a known one ends.
    asked_tokens, known_tokens: tokens of all sequences admitted, and how many of them were found. keeper: is told of
    what is about to be lost.
    """

    def __init__(self, layout: CacheLayout, keeps_prefixes: bool = False) -> None:
        self.layout = layout
        self.keeps_prefixes = keeps_prefixes
        self.keeper: Keeper | None = None
        self.global_pool = Pool(layout.global_blocks, partial(self._evicted, "global"))
        self.local_pool = Pool(layout.local_blocks, partial(self._evicted, "local"))
        self.asked_tokens = self.known_tokens = 0

    @property
    def free_global(self) -> Collection[int]:
        """Blocks for global layers that nobody holds."""
        return self.global_pool.free

    @property
    def free_local(self) -> Collection[int]:
        """Blocks for local layers that nobody holds."""
        return self.local_pool.free

    def admit(self, sequence: Sequence, most: int) -> int:
        """Start a sequence with what is known of it: how many tokens it may compute now, at most `most`.

        0, and nothing held, when blocks for all of its tokens are short.
        """
        self.reuse(sequence)
        count = min(sequence.pending, most)
        short = self.blocks_for(len(sequence.tokens)) - len(sequence.global_blocks) > len(self.free_global)
        if short or not self.reserve(sequence, count):
            self.release(sequence)
            return 0
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self.asked_tokens += len(sequence.tokens)
            self.known_tokens += sequence.computed
        return count

    def reuse(self, sequence: Sequence) -> None:
        """Share the blocks of the longest known prefix; one token at least is left to be computed.

        Local layers must know the part of it that lies in its last chunk, and need no more.
        """
        keys = self.prefix_keys(sequence, sequence.shareable)
        known = next((i for i, key in enumerate(keys) if key not in self.global_pool.block_of), len(keys))
        first = known
        if self.layout.chunk is not None:
            size = self.layout.block_size
            first = known * size // self.layout.chunk * self.layout.chunk // size
            known = next((i for i in range(first, known) if keys[i] not in self.local_pool.block_of), known)
            sequence.local_base = first * size
            sequence.local_blocks.extend(self.local_pool.share(keys[first:known]))
        sequence.global_blocks.extend(self.global_pool.share(keys[:known]))
        sequence.computed = known * self.layout.block_size

    def remember(self, sequence: Sequence) -> None:
        """Make what is computed of a sequence known to others."""
        first, size = sequence.remembered, self.layout.block_size
        if not self.keeps_prefixes or sequence.computed // size == first:
            return
        for index, key in enumerate(self.prefix_keys(sequence, sequence.computed)[first:], start=first):
            self.global_pool.remember(sequence.global_blocks[index], key)
            if index * size >= sequence.local_base and self.layout.chunk is not None:
                self.local_pool.remember(sequence.local_blocks[index - sequence.local_base // size], key)
            sequence.remembered = index + 1

    def is_being_read(self, sequence: Sequence, reading: Sequence) -> bool:
        """Whether `reading` is about to compute a block that `sequence` could then share."""
        prompt = len(reading.request.prompt)
        if reading.computed >= prompt - 1:
            return False
        theirs = self.prefix_keys(reading, prompt)
        own = self.prefix_keys(sequence, sequence.shareable)
        known = next((i for i, key in enumerate(own) if key not in self.global_pool.block_of), len(own))
        return known < min(len(own), len(theirs)) and own[known] == theirs[known]

    def prefix_keys(self, sequence: Sequence, tokens: int) -> list[bytes]:
        """Keys of the full blocks among the first `tokens` tokens; none when prefixes are not kept."""
        if not self.keeps_prefixes:
            return []
        keys, size = sequence.keys, self.layout.block_size
        while (len(keys) + 1) * size <= tokens:
            before = keys[-1] if keys else first_key(sequence.request.salt)
            keys.append(next_key(before, sequence.tokens[len(keys) * size : (len(keys) + 1) * size]))
        return keys[: tokens // size]

    def reserve(self, sequence: Sequence, count: int) -> bool:
        """Make room for `count` more tokens of the sequence; all or nothing, False when blocks are short."""
        stop, size, chunk = sequence.computed + count, self.layout.block_size, self.layout.chunk
        more_local = 0
        if chunk is not None:
            self.leave_old_chunks(sequence, chunk)
            more_local = -(-(stop - sequence.local_base) // size) - len(sequence.local_blocks)
        more_global = -(-stop // size) - len(sequence.global_blocks)
        if more_global <= 0 and more_local <= 0:
            return True  # most tokens go into a block that is there
        if more_global > len(self.free_global) or more_local > len(self.free_local):
            return False
        sequence.global_blocks.extend(self.global_pool.take(more_global))
        sequence.local_blocks.extend(self.local_pool.take(more_local))
        return True

    def retire(self, sequence: Sequence) -> None:
        """Take back everything from a sequence that has come to its end; what it computed stays known."""
        self.remember(sequence)
        if self.keeper:
            self.keeper.left(sequence)
        self.release(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take back everything; the sequence must then be computed from its first token, or from what is known."""
        self.global_pool.give_back(sequence.global_blocks)
        self.local_pool.give_back(sequence.local_blocks)
        del sequence.global_blocks[:], sequence.local_blocks[:]
        sequence.local_base = sequence.computed = sequence.remembered = 0

    def leave_old_chunks(self, sequence: Sequence, chunk: int) -> None:
        """Free the local blocks that no later token can see: those before the chunk of the next token."""
        base = sequence.computed // chunk * chunk
        if base == sequence.local_base:
            return
        old = min((base - sequence.local_base) // self.layout.block_size, len(sequence.local_blocks))
        self.local_pool.give_back(sequence.local_blocks[:old])
        del sequence.local_blocks[:old]
        sequence.local_base = base

    def _evicted(self, kind: Kind, block: int, key: bytes) -> None:
        if self.keeper:
            self.keeper.evicted(kind, block, key)

    def holds(self, tokens: int) -> bool:
        """Whether one sequence of this length fits into the empty cache."""
        return tokens <= self.layout.global_blocks * self.layout.block_size

    def blocks_for(self, tokens: int) -> int:
        """Blocks that cover this many tokens."""
        return -(-tokens // self.layout.block_size)
