"""What must hold between two steps; used by the tests and by nothing else on the hot path."""

from __future__ import annotations

from collections.abc import Sequence as Many

from twofold.engine.blocks import Blocks
from twofold.engine.draft import DraftModel
from twofold.engine.request import Sequence
from twofold.engine.scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    """Raise AssertionError when a block is lost or held twice, or a table does not cover its sequence."""
    check_blocks(scheduler.blocks, [*scheduler.running, *scheduler.waiting])
    assert len(scheduler.running) <= scheduler.max_sequences, "too many sequences are running"
    for sequence in scheduler.waiting:
        assert not sequence.global_blocks, "a waiting sequence holds blocks"
        assert sequence.computed == 0, "a waiting sequence claims computed tokens"
    for sequence in scheduler.running:
        assert sequence.pending >= 1, "a running sequence has nothing to compute"


def check_draft(draft: DraftModel) -> None:
    """Raise AssertionError when the draft model's blocks or its copies of sequences are in disorder."""
    check_blocks(draft.blocks, [follower.sequence for follower in draft.followers.values()])
    for follower in draft.followers.values():
        assert follower.confirmed <= len(follower.sequence.tokens), "more tokens are confirmed than there are"


def check_blocks(blocks: Blocks, sequences: Many[Sequence]) -> None:
    """Raise AssertionError unless every block is held once or free, and tables cover what is computed."""
    layout = blocks.layout
    held_global = [block for sequence in sequences for block in sequence.global_blocks]
    held_local = [block for sequence in sequences for block in sequence.local_blocks]
    assert sorted([*held_global, *blocks.free_global]) == list(range(layout.global_blocks)), "a global block is lost"
    assert sorted([*held_local, *blocks.free_local]) == list(range(layout.local_blocks)), "a local block is lost"
    for sequence in sequences:
        assert sequence.computed <= len(sequence.global_blocks) * layout.block_size, "a table is too short"
        if layout.chunk is not None:
            assert sequence.local_base % layout.chunk == 0, "a local table does not begin with a chunk"
            held = sequence.local_base + len(sequence.local_blocks) * layout.block_size
            assert sequence.computed <= held, "a local table is too short"
