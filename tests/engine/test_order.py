"""Who goes first: priorities, owners in turn, and how often a sequence may be overtaken."""

from __future__ import annotations

import random
import time

import pytest

from twofold.engine import invariants
from twofold.engine.blocks import Blocks, CacheLayout, plan_layout
from twofold.engine.order import STRIDE, Waiting, place
from twofold.engine.request import MOST_PRIORITY, Request, SamplingParams, Sequence
from twofold.engine.scheduler import Scheduler
from twofold.errors import InvalidSampling
from twofold.ops.types import Drawn


def sequence(number: int, owner: str = "", priority: int = 0, prompt: int = 3, answer: int = 1) -> Sequence:
    request = Request(
        id=number, prompt=tuple(range(prompt)), params=SamplingParams(priority=priority), seed=0,
        stop_ids=frozenset(), max_tokens=answer, owner=owner.encode(),
    )  # fmt: skip
    return Sequence(request=request, tokens=list(range(prompt)))


def serve(waiting: Waiting) -> list[int]:
    """Request ids in the order in which they are taken."""
    taken = []
    while (first := waiting.first) is not None:
        waiting.take(first)
        taken.append(first.request.id)
    return taken


def test_one_owner_is_served_in_order_of_arrival() -> None:
    waiting = Waiting()
    for number in range(5):
        waiting.arrive(sequence(number))
    assert serve(waiting) == [0, 1, 2, 3, 4]


def test_a_lower_number_goes_first() -> None:
    waiting = Waiting()
    for number, priority in enumerate([5, 0, 1, 0, -3]):
        waiting.arrive(sequence(number, priority=priority))
    assert serve(waiting) == [4, 1, 3, 2, 0]


def test_a_single_request_does_not_wait_for_all_of_another_owner() -> None:
    waiting = Waiting()
    for number in range(200):
        waiting.arrive(sequence(number, "many"))
    for _ in range(50):
        first = waiting.first
        assert first is not None
        waiting.take(first)
    waiting.arrive(sequence(200, "single"))
    assert serve(waiting).index(200) <= 1


def test_owners_take_turns_within_a_priority() -> None:
    waiting = Waiting()
    for number in range(6):
        waiting.arrive(sequence(number, "one"))
    for number in range(6, 9):
        waiting.arrive(sequence(number, "two"))
    waiting.arrive(sequence(9, "two", priority=-1))
    assert serve(waiting) == [9, 0, 6, 1, 7, 2, 8, 3, 4, 5]


def test_requests_that_are_cancelled_cost_their_owner_no_turns() -> None:
    waiting = Waiting()
    items = [sequence(number, "one") for number in range(50)]
    for item in items:
        waiting.arrive(item)
    waiting.arrive(sequence(50, "two"))
    for item in items[:49]:
        waiting.drop(item)
    waiting.arrive(sequence(51, "one"))
    waiting.arrive(sequence(52, "two"))
    assert serve(waiting) == [49, 50, 51, 52]


def test_nobody_is_overtaken_more_often_than_the_bound_says() -> None:
    """Owners that never stop asking at better priorities, against the bound in the docstring of engine.order."""
    seed = 5
    print(f"seed {seed}")
    source = random.Random(seed)
    waiting, number = Waiting(), 0
    for _ in range(20):
        own = source.randrange(4)
        for _ in range(own):
            waiting.arrive(sequence(number, "patient", 2))
            number += 1
        patient = sequence(-1, "patient", 2)
        waiting.arrive(patient)
        overtaken: dict[tuple[bytes, int], int] = {}
        while patient in waiting.sequences:
            for owner, priority in (("a", 0), ("b", 1), ("c", 2)):
                for _ in range(source.randrange(3)):
                    waiting.arrive(sequence(number, owner, priority))
                    number += 1
            first = waiting.first
            assert first is not None
            waiting.take(first)
            if first.arrival > patient.arrival:
                key = (first.request.owner, first.request.params.priority)
                overtaken[key] = overtaken.get(key, 0) + 1
        for (_, priority), count in overtaken.items():
            assert count <= own + STRIDE * (2 - priority)
        serve(waiting)
    assert not waiting.latest


@pytest.mark.parametrize("priority", [-MOST_PRIORITY - 1, MOST_PRIORITY + 1, 1.5, True])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(InvalidSampling, match="priority"):
        SamplingParams(priority=priority)


def scheduler(blocks: int = 6, max_sequences: int = 4, step_tokens: int = 8) -> Scheduler:
    layout = CacheLayout(block_size=4, global_blocks=blocks, local_blocks=blocks, chunk=8)
    return Scheduler(Blocks(layout), step_tokens, max_sequences)


def run(served: Scheduler, steps: int = 500) -> list[int]:
    """Request ids in the order in which they finish."""
    finished: list[int] = []
    for _ in range(steps):
        plan = served.plan()
        if plan is None:
            break
        events = served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
        invariants.check(served)
        finished += [event.request_id for event in events if event.finish]
    return finished


def test_a_better_priority_takes_the_place_of_a_running_sequence_which_finishes_later() -> None:
    served = scheduler(blocks=16, max_sequences=2)
    served.add(sequence(0, priority=1, answer=30))
    served.add(sequence(1, priority=1, answer=30))
    run(served, 3)
    served.add(sequence(2, priority=0, answer=3))
    run(served, 1)
    assert [item.request.id for item in served.running] == [2, 0]  # the later of the two gave way
    assert run(served) == [2, 0, 1]
    assert served.preemptions == 1


def test_a_better_priority_takes_the_blocks_it_needs_and_only_if_they_are_enough() -> None:
    served = scheduler(blocks=6)
    served.add(sequence(0, priority=0, prompt=8, answer=4))
    served.add(sequence(1, priority=1, prompt=8, answer=8))
    run(served, 2)
    served.add(sequence(2, priority=0, prompt=20, answer=2))  # more than the second one holds
    run(served, 1)
    assert [item.request.id for item in served.running] == [0, 1]
    assert run(served) == [0, 2, 1]


def test_an_equal_priority_interrupts_nobody() -> None:
    served = scheduler(max_sequences=1)
    served.add(sequence(0, answer=9))
    run(served, 2)
    served.add(sequence(1, "other"))
    assert run(served) == [0, 1]
    assert served.preemptions == 0


def test_a_prompt_of_a_better_priority_is_read_before_the_rest_of_another() -> None:
    served = scheduler(blocks=16, step_tokens=4)
    served.add(sequence(0, prompt=30))
    run(served, 2)
    served.add(sequence(1, priority=-1, prompt=8))
    assert run(served) == [1, 0]
    assert served.preemptions == 0


def test_a_preempted_sequence_keeps_its_place() -> None:
    served = scheduler(blocks=6)
    for number in range(2):
        served.add(sequence(number, prompt=8, answer=14))
    while not served.preemptions:
        run(served, 1)
    served.add(sequence(2, prompt=4, answer=14))
    assert [item.request.id for item in served.waiting] == [1, 2]
    assert run(served) == [0, 1, 2]


def test_random_traffic_of_all_priorities_keeps_the_invariants_and_finishes() -> None:
    seed = 41
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(20):
        layout = plan_layout(source.choice([None, 8]), 64, 16, 4)
        served = Scheduler(Blocks(layout, keeps_prefixes=source.random() < 0.5), source.choice([1, 5, 16]), 4)
        expected, finished = set(), []
        for number in range(30):
            owner, priority = source.choice("abc"), source.randrange(-2, 3)
            served.add(sequence(number, owner, priority, source.randrange(1, 40), source.randrange(1, 24)))
            expected.add(number)
            finished += run(served, source.randrange(6))
            if source.random() < 0.2:
                victim = source.choice(sorted(expected))
                served.cancel(victim)
                expected.discard(victim)
            invariants.check(served)
        finished += run(served, 5000)
        assert expected <= set(finished)
        assert len(finished) == len(set(finished))
        assert len(served.blocks.free_global) == layout.global_blocks
        assert not served.waiting.latest


@pytest.mark.slow
def test_planning_with_hundreds_of_requests_takes_microseconds() -> None:
    """256 wait and 64 run, with keys of their own; prints what a step costs."""
    layout = plan_layout(None, 64 * 1024, 512, 64)
    served = Scheduler(Blocks(layout, keeps_prefixes=True), 512, 64)
    for number in range(320):
        served.add(sequence(number, str(number % 7), number % 3, 40, 1000))
    run(served, 20)
    assert (len(served.running), len(served.waiting)) == (64, 256)
    took = []
    for _ in range(200):
        start = time.perf_counter()
        plan = served.plan()
        took.append(time.perf_counter() - start)
        assert plan is not None
        served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
    print(f"plan: {1e6 * sorted(took)[100]:.0f} us")
    assert place(served.running[0]) < place(served.waiting.sequences[0])
