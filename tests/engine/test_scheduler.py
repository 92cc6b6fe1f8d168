"""Who runs when: admission, budgets, preemption, and the blocks, without a model."""

from __future__ import annotations

import random

import pytest

from twofold.engine import invariants
from twofold.engine.blocks import Blocks, CacheLayout, block_size_for, plan_layout
from twofold.engine.request import Event, Request, SamplingParams, Sequence
from twofold.engine.scheduler import Scheduler
from twofold.ops.types import Drawn

LAYOUT = CacheLayout(block_size=4, global_blocks=16, local_blocks=12, chunk=8)


def sequence(number: int, prompt: int, answer: int) -> Sequence:
    request = Request(
        id=number, prompt=tuple(range(prompt)), params=SamplingParams(), seed=0, stop_ids=frozenset({999}),
        max_tokens=answer,
    )  # fmt: skip
    return Sequence(request=request, tokens=list(range(prompt)))


def scheduler(layout: CacheLayout = LAYOUT, step_tokens: int = 8, max_sequences: int = 4) -> Scheduler:
    return Scheduler(Blocks(layout), step_tokens, max_sequences)


def step(scheduler: Scheduler, token: int = 1) -> list[Event]:
    plan = scheduler.plan()
    if plan is None:
        return []
    events = scheduler.commit(plan, [Drawn(token=token) for _ in plan.sampling])
    invariants.check(scheduler)
    return events


def test_a_long_prompt_is_read_in_pieces_of_the_budget() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=20, answer=2))
    sizes = []
    while (plan := served.plan()) is not None:
        sizes.append([item.count for item in plan.slices])
        served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
    assert sizes == [[8], [8], [4], [1]]


def test_a_slice_knows_how_much_of_it_is_prompt() -> None:
    served = scheduler()
    for number, prompt in enumerate((3, 10)):
        served.add(sequence(number, prompt=prompt, answer=3))
    found = []
    while (plan := served.plan()) is not None:
        found.append([(item.count, item.prompt_rows) for item in plan.slices])
        served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
    assert found == [[(3, 3), (5, 5)], [(1, 0), (5, 5)], [(1, 0), (1, 0)], [(1, 0)]]


def test_sequences_that_need_one_token_go_before_those_reading_a_prompt() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=20, answer=4))
    served.add(sequence(1, prompt=2, answer=4))
    step(served)
    step(served)
    step(served)  # 4 left of the first prompt, then the second fits in
    plan = served.plan()
    assert plan is not None
    assert [(item.sequence.request.id, item.count) for item in plan.slices] == [(0, 1), (1, 1)]


def test_a_finished_sequence_returns_its_blocks() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=5, answer=2))
    assert [event.finish for event in step(served)] == [None]
    assert [event.finish for event in step(served)] == ["length"]
    assert len(served.blocks.free_global) == 16
    assert len(served.blocks.free_local) == 12


def test_a_stop_token_ends_a_sequence() -> None:
    served = scheduler()
    served.add(sequence(0, prompt=5, answer=10))
    assert step(served, token=999)[0].finish == "stop"
    assert served.plan() is None


def test_a_cancelled_request_returns_its_blocks_wherever_it_is() -> None:
    served = scheduler(max_sequences=1)
    served.add(sequence(0, prompt=5, answer=9))
    served.add(sequence(1, prompt=5, answer=9))
    step(served)
    served.cancel(1)
    served.cancel(0)
    served.cancel(0)
    invariants.check(served)
    assert served.plan() is None
    assert len(served.blocks.free_global) == 16


def test_the_newest_gives_way_when_blocks_run_out_and_still_finishes() -> None:
    served = scheduler(CacheLayout(block_size=4, global_blocks=6, local_blocks=6, chunk=8))
    served.add(sequence(0, prompt=8, answer=14))
    served.add(sequence(1, prompt=8, answer=14))
    finished = []
    for _ in range(80):
        finished += [event.request_id for event in step(served) if event.finish]
    assert finished == [0, 1]


def test_local_blocks_are_freed_at_the_chunk_boundary() -> None:
    served = scheduler(step_tokens=4)
    served.add(sequence(0, prompt=30, answer=1))
    held = []
    while served.running or served.waiting:
        step(served)
        held += [len(item.local_blocks) for item in served.running]
    assert max(held) <= 2  # one chunk of eight tokens


def test_random_traffic_keeps_the_invariants() -> None:
    seed = 17
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(30):
        layout = plan_layout(source.choice([None, 8]), 64, 16, 4)
        served = scheduler(layout, step_tokens=source.choice([1, 5, 16]), max_sequences=4)
        expected, finished = set(), set()
        for number in range(25):
            served.add(sequence(number, source.randrange(1, 40), source.randrange(1, 24)))
            expected.add(number)
            for _ in range(source.randrange(6)):
                finished |= {event.request_id for event in step(served) if event.finish}
            if source.random() < 0.2:
                victim = source.choice(sorted(expected))
                served.cancel(victim)
                expected.discard(victim)
            invariants.check(served)
        for _ in range(5000):
            finished |= {event.request_id for event in step(served) if event.finish}
        assert expected <= finished
        assert len(served.blocks.free_global) == layout.global_blocks


@pytest.mark.parametrize(("chunk", "size"), [(None, 32), (8, 8), (8192, 32), (256, 32), (12, 4), (7, 1)])
def test_the_block_size_divides_the_chunk(chunk: int | None, size: int) -> None:
    assert block_size_for(chunk) == size
