"""What must hold between two steps: checked by the tests, and after every step where EngineLimits.checks says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Many

from twofold.engine.blocks import Blocks
from twofold.engine.draft import DraftModel
from twofold.engine.pool import Pool, first_key, next_key
from twofold.engine.request import Sequence
from twofold.engine.scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    """Raise AssertionError when a block is lost, held in secret or known for what it is not, or a table is short."""
    check_blocks(scheduler.blocks, [*scheduler.running, *scheduler.waiting])
    assert len(scheduler.running) <= scheduler.max_sequences, "too many sequences are running"
    for sequence in scheduler.waiting:
        assert not sequence.global_blocks, "a waiting sequence holds blocks"
        assert not sequence.local_blocks, "a waiting sequence holds local blocks"
        assert sequence.computed == 0, "a waiting sequence claims computed tokens"
    for sequence in [*scheduler.running, *scheduler.waiting]:
        assert len(sequence.scores) <= max(0, len(sequence.request.prompt) - 1) * sequence.request.is_scored, "scores"
    for sequence in scheduler.running:
        assert sequence.pending >= 1, "a running sequence has nothing to compute"
        check_content(scheduler, sequence)


def check_draft(draft: DraftModel) -> None:
    """Raise AssertionError when the draft model's blocks or its copies of sequences are in disorder."""
    check_blocks(draft.blocks, [follower.sequence for follower in draft.followers.values()])
    for follower in draft.followers.values():
        assert follower.confirmed <= len(follower.sequence.tokens), "more tokens are confirmed than there are"


def check_blocks(blocks: Blocks, sequences: Many[Sequence]) -> None:
    """Raise AssertionError unless every block is free or held as the pools count, and tables cover what is computed."""
    layout = blocks.layout
    check_pool(blocks.global_pool, [block for sequence in sequences for block in sequence.global_blocks])
    check_pool(blocks.local_pool, [block for sequence in sequences for block in sequence.local_blocks])
    for sequence in sequences:
        assert sequence.computed <= len(sequence.global_blocks) * layout.block_size, "a table is too short"
        if layout.chunk is not None:
            assert sequence.local_base % layout.chunk == 0, "a local table does not begin with a chunk"
            held = sequence.local_base + len(sequence.local_blocks) * layout.block_size
            assert sequence.computed <= held, "a local table is too short"


def check_pool(pool: Pool, held: Iterable[int]) -> None:
    """Every block is free or held, by as many as the pool counts; keys and blocks name each other."""
    counts = Counter(held)
    assert [counts[block] for block in range(len(pool.holders))] == pool.holders, "holders are counted wrong"
    assert sorted(pool.free) == [block for block, count in enumerate(pool.holders) if not count], "a block is lost"
    assert {key: block for block, key in pool.key_of.items()} == pool.block_of, "keys and blocks disagree"


def check_content(scheduler: Scheduler, sequence: Sequence) -> None:
    """What a sequence holds is known for the tokens it has there, and shared or written blocks are never both."""
    size, blocks = scheduler.blocks.layout.block_size, scheduler.blocks
    key = first_key(sequence.request.salt)
    for index, block in enumerate(sequence.global_blocks):
        full = (index + 1) * size <= sequence.computed
        key = next_key(key, sequence.tokens[index * size : (index + 1) * size])
        assert full or blocks.global_pool.holders[block] == 1, "a block that is still written to is shared"
        assert blocks.global_pool.key_of.get(block) in ((key, None) if full else (None,)), "a block is known wrongly"
        place = index - sequence.local_base // size
        if 0 <= place < len(sequence.local_blocks):
            local = sequence.local_blocks[place]
            assert full or blocks.local_pool.holders[local] == 1, "a local block that is written to is shared"
            assert blocks.local_pool.key_of.get(local) in ((key, None) if full else (None,)), "known wrongly"
