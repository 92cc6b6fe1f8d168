"""What must hold between two steps; used by the tests and by nothing else on the hot path."""

from __future__ import annotations

from twofold.engine.scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    """Raise AssertionError when a block is lost or held twice, or a table does not cover its sequence."""
    blocks, layout = scheduler.blocks, scheduler.blocks.layout
    sequences = [*scheduler.running, *scheduler.waiting]
    held_global = [block for sequence in sequences for block in sequence.global_blocks]
    held_local = [block for sequence in sequences for block in sequence.local_blocks]
    assert sorted([*held_global, *blocks.free_global]) == list(range(layout.global_blocks)), "a global block is lost"
    assert sorted([*held_local, *blocks.free_local]) == list(range(layout.local_blocks)), "a local block is lost"
    assert len(scheduler.running) <= scheduler.max_sequences, "too many sequences are running"
    for sequence in scheduler.waiting:
        assert not sequence.global_blocks, "a waiting sequence holds blocks"
        assert sequence.computed == 0, "a waiting sequence claims computed tokens"
    for sequence in scheduler.running:
        assert sequence.pending >= 1, "a running sequence has nothing to compute"
        assert sequence.computed <= len(sequence.global_blocks) * layout.block_size, "a table is too short"
        if layout.chunk is not None:
            assert sequence.local_base % layout.chunk == 0, "a local table does not begin with a chunk"
            held = sequence.local_base + len(sequence.local_blocks) * layout.block_size
            assert sequence.computed <= held, "a local table is too short"
