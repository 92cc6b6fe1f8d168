"""Prompts that begin alike share what was computed, and every answer stays the one it is alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from twofold import LLM, SamplingParams
from twofold.engine import invariants
from twofold.engine.blocks import Blocks, CacheLayout
from twofold.engine.request import Request, Sequence
from twofold.engine.scheduler import Scheduler
from twofold.ops.types import Drawn

LAYOUT = CacheLayout(block_size=4, global_blocks=32, local_blocks=24, chunk=8)


def sequence(number: int, tokens: list[int], answer: int = 2, salt: bytes = b"") -> Sequence:
    request = Request(
        id=number, prompt=tuple(tokens), params=SamplingParams(), seed=0, stop_ids=frozenset(), max_tokens=answer,
        salt=salt,
    )  # fmt: skip
    return Sequence(request=request, tokens=list(tokens))


def run(served: Scheduler, *sequences: Sequence) -> list[int]:
    """Serve to the end; prompt tokens that were known, by sequence."""
    for item in sequences:
        served.add(item)
    while (plan := served.plan()) is not None:
        served.commit(plan, [Drawn(token=1) for _ in plan.sampling])
        invariants.check(served)
    return [item.cached or 0 for item in sequences]


def scheduler(layout: CacheLayout = LAYOUT, step_tokens: int = 8) -> Scheduler:
    return Scheduler(Blocks(layout, keeps_prefixes=True), step_tokens, 4)


TEXT = list(range(100, 130))


def test_a_prompt_begins_where_the_known_one_ends() -> None:
    served = scheduler()
    assert run(served, sequence(0, TEXT[:23])) == [0]
    assert run(served, sequence(1, TEXT[:23])) == [20]  # whole blocks of four
    assert run(served, sequence(2, [*TEXT[:15], 7, 8, 9])) == [12]
    assert run(served, sequence(3, TEXT[:20])) == [16]  # one token at least must be computed
    assert run(served, sequence(4, [9, *TEXT[:20]])) == [0]


def test_another_salt_shares_nothing() -> None:
    served = scheduler()
    run(served, sequence(0, TEXT, salt=b"one"))
    assert run(served, sequence(1, TEXT, salt=b"two"), sequence(2, TEXT, salt=b"one")) == [0, 28]


def test_without_the_cache_nothing_is_known() -> None:
    served = Scheduler(Blocks(LAYOUT), 8, 4)
    assert run(served, sequence(0, TEXT), sequence(1, TEXT)) == [0, 0]


def test_an_answer_is_known_to_the_next_turn() -> None:
    served = scheduler()
    first = sequence(0, TEXT[:10], answer=8)
    run(served, first)
    assert run(served, sequence(1, [*first.tokens, 5, 6, 7])) == [16]


def test_local_blocks_that_are_gone_shorten_the_known_prefix_to_its_last_chunk() -> None:
    served = scheduler()
    run(served, sequence(0, TEXT[:23]))
    served.blocks.local_pool.take(len(served.blocks.free_local))  # somebody else needs them
    found = sequence(1, TEXT[:23])
    served.blocks.reuse(found)
    assert (found.computed, found.local_base, list(found.local_blocks)) == (16, 16, [])


def test_requests_with_one_prompt_read_it_once() -> None:
    served = scheduler(step_tokens=16)
    for number in range(3):
        served.add(sequence(number, TEXT, answer=3))
    rows = 0
    while (plan := served.plan()) is not None:
        rows += sum(item.rows for item in plan.slices)
        served.commit(plan, [Drawn(token=number) for number, _ in enumerate(plan.sampling)])
        invariants.check(served)
    assert rows == 30 + 2 * 2 + 3 * 2  # the prompt, two tokens of it for each of the others, two steps of answers each


def test_random_traffic_with_shared_beginnings_keeps_the_invariants() -> None:
    seed = 29
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(20):
        chunk = source.choice([None, 8])
        layout = CacheLayout(block_size=4, global_blocks=24, local_blocks=24 if chunk else 0, chunk=chunk)
        served = scheduler(layout, step_tokens=source.choice([3, 8, 16]))
        finished, expected = set(), set()
        for number in range(40):
            tokens = [source.randrange(2), *TEXT[: source.randrange(30)], *([number] * source.randrange(8))]
            served.add(sequence(number, tokens, source.randrange(1, 20), salt=source.choice([b"", b"x"])))
            expected.add(number)
            for _ in range(source.randrange(5)):
                finished |= step(served)
            if source.random() < 0.2:
                victim = source.choice(sorted(expected))
                served.cancel(victim)
                expected.discard(victim)
                invariants.check(served)
        for _ in range(3000):
            finished |= step(served)
        assert expected <= finished
        assert len(served.blocks.free_global) == layout.global_blocks
        assert len(served.blocks.free_local) == layout.local_blocks


def step(served: Scheduler) -> set[int]:
    plan = served.plan()
    if plan is None:
        return set()
    events = served.commit(plan, [Drawn(token=5) for _ in plan.sampling])
    invariants.check(served)
    return {event.request_id for event in events if event.finish}


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int8"])
def test_every_answer_is_the_one_it_is_alone(kv_cache_dtype: str) -> None:
    compare(seed=31, rounds=2, kv_cache_dtype=kv_cache_dtype)


@pytest.mark.slow
@pytest.mark.parametrize("kv_cache_dtype", ["f32", "bf16", "int8"])
def test_every_answer_is_the_one_it_is_alone_at_length(kv_cache_dtype: str) -> None:
    for seed in range(5):
        compare(seed=seed, rounds=6, kv_cache_dtype=kv_cache_dtype)


def compare(seed: int, rounds: int, kv_cache_dtype: str) -> None:
    """Random joins, cancels, preemptions and prefix hits on the demo model, against each request alone."""
    print(f"seed {seed}")
    source = random.Random(seed)
    shape: Any = {"dtype": "w8a8", "threads": 1, "context": 640, "kv_cache_dtype": kv_cache_dtype}
    alone = LLM("demo", guess_tokens=0, **shape)
    shared = LLM(
        "demo", prefix_cache=True, cache_tokens=736, step_tokens=source.choice([24, 64, 200]), max_sequences=6, **shape
    )
    beginnings = [[1, *source.choices(range(300, 2000), k=count)] for count in (60, 250, 330, 500)]
    for _ in range(rounds):
        cases = [random_case(source, beginnings) for _ in range(12)]
        expected = [alone.generate([prompt], params)[0].token_ids for prompt, params in cases]
        assert serve(shared, cases, source) == expected
    assert shared.engine.blocks.known_tokens > 0
    assert shared.engine.scheduler.preemptions > 0


def random_case(source: random.Random, beginnings: list[list[int]]) -> tuple[list[int], SamplingParams]:
    start = source.choice(beginnings)
    prompt = [*start[: source.randrange(1, len(start) + 1)], *source.choices(range(300, 2000), k=source.randrange(40))]
    params = SamplingParams(
        temperature=source.choice([0.0, 1.0]), seed=source.randrange(1000), max_tokens=source.randrange(1, 90),
        repetition_penalty=source.choice([1.0, 1.2]), ignore_eos=True, min_tokens=source.choice([0, 5]),
    )  # fmt: skip
    return prompt, params


def serve(llm: LLM, cases: list[tuple[list[int], SamplingParams]], source: random.Random) -> list[list[int]]:
    """Answers with all cases in flight at random times, among others that are cancelled."""
    engine, defaults, eos = llm.engine, llm.loaded.model.defaults, llm.loaded.model.eos_ids
    waiting = [engine.prepare(prompt, params.over(defaults), eos) for prompt, params in cases]
    doomed = [engine.prepare(prompt, params.over(defaults), eos) for prompt, params in source.sample(cases, 4)]
    arriving = source.sample([*waiting, *doomed], len(waiting) + len(doomed))
    answers: dict[int, list[int]] = {request.id: [] for request in [*waiting, *doomed]}
    while arriving or not engine.is_idle:
        if arriving and source.random() < 0.7:
            engine.enqueue(arriving.pop())
        if doomed and source.random() < 0.05:
            engine.cancel(doomed.pop().id)
        for event in engine.step():
            answers[event.request_id].append(event.drawn.token)
        invariants.check(engine.scheduler)
    return [answers[request.id] for request in waiting]
