"""The thread that owns the engine: joins, cancels, slow readers, failures and the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from twofold import LLM, SamplingParams
from twofold.engine import invariants
from twofold.engine.engine import Engine
from twofold.engine.request import Event, Request
from twofold.engine.runner import Runner, RunnerLimits, StepReport
from twofold.engine.stream import Stream
from twofold.errors import BadLogits, Overloaded, ShuttingDown, SlowReader


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="w8a8", threads=1, max_sequences=4, step_tokens=32)


@pytest.fixture
def runner(llm: LLM) -> Iterator[Runner]:
    made = Runner(llm.engine, RunnerLimits(max_waiting=8))
    yield made
    made.close()
    assert llm.engine.is_idle
    invariants.check(llm.engine.scheduler)


def prepare(engine: Engine, prompt: list[int], **params: Any) -> Request:
    return engine.prepare(prompt, SamplingParams(**{"temperature": 0.0, "max_tokens": 8, **params}))


async def read(stream: Stream) -> list[Event]:
    return [event async for delivery in stream for event in delivery.events]


async def until_idle(runner: Runner) -> None:
    while runner.live or not runner.engine.is_idle:
        await asyncio.sleep(0.001)


def test_requests_that_join_at_any_time_get_the_answers_they_get_alone(llm: LLM) -> None:
    seed = 3
    print(f"seed {seed}")
    source = random.Random(seed)
    cases: list[tuple[list[int], dict[str, Any]]] = []
    for seed_of_case in range(10):
        prompt = [1, *source.choices(range(300, 2000), k=source.randrange(1, 90))]
        temperature, most = source.choice([0.0, 1.0]), source.randrange(1, 20)
        cases.append((prompt, {"temperature": temperature, "seed": seed_of_case, "max_tokens": most}))
    alone = [llm.generate([prompt], SamplingParams(**params))[0].token_ids for prompt, params in cases]
    runner = Runner(llm.engine)

    async def main() -> list[list[Event]]:
        tasks = []
        for prompt, params in cases:
            request = llm.engine.prepare(
                prompt, SamplingParams(**params).over(llm.loaded.model.defaults), llm.loaded.model.eos_ids
            )
            tasks.append(asyncio.create_task(read(runner.submit([request]))))
            await asyncio.sleep(source.random() * 0.02)
        return await asyncio.gather(*tasks)

    together = asyncio.run(main())
    runner.close()
    assert [[event.drawn.token for event in events] for events in together] == alone
    assert llm.engine.is_idle


def test_a_cancelled_stream_ends_and_frees_its_blocks(runner: Runner) -> None:
    async def main() -> None:
        stream = runner.submit([prepare(runner.engine, [1, 5, 6], max_tokens=1500)])
        await anext(stream)
        stream.cancel()
        assert all(event.finish is None for event in await read(stream))
        await until_idle(runner)

    asyncio.run(main())
    assert len(runner.engine.blocks.free_global) == runner.engine.blocks.layout.global_blocks


def test_one_request_of_a_group_can_be_cancelled(runner: Runner) -> None:
    async def main() -> list[Event]:
        first, second = (
            prepare(runner.engine, [1, 5, 6], max_tokens=1500),
            prepare(runner.engine, [1, 7], max_tokens=40),
        )
        stream = runner.submit([first, second])
        stream.cancel(first.id)
        events = await read(stream)
        return [event for event in events if event.request_id == second.id]

    assert asyncio.run(main())[-1].finish == "length"


def test_as_many_may_wait_as_the_limit_says(runner: Runner) -> None:
    async def main() -> None:
        streams = [runner.submit([prepare(runner.engine, [1, 5], max_tokens=1500)]) for _ in range(12)]
        with pytest.raises(Overloaded, match="at most 12"):
            runner.submit([prepare(runner.engine, [1, 5])])
        for stream in streams:
            stream.cancel()
        await until_idle(runner)
        await read(runner.submit([prepare(runner.engine, [1, 5])]))

    asyncio.run(main())


def test_a_reader_who_does_not_read_is_cut_and_others_go_on(llm: LLM) -> None:
    runner = Runner(llm.engine, RunnerLimits(buffered_tokens=20))

    async def main() -> None:
        slow = runner.submit([prepare(runner.engine, [1, 5], max_tokens=500)])
        await until_idle(runner)
        assert 20 < slow.buffered_tokens < 40
        with pytest.raises(SlowReader, match="not read"):
            await read(slow)
        assert (await read(runner.submit([prepare(runner.engine, [1, 5])])))[-1].finish == "length"

    asyncio.run(main())
    runner.close()
    assert llm.engine.is_idle


def test_a_request_with_broken_logits_fails_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token 7 stands for a row whose logits are NaN."""
    forward = llm.engine.forward

    def poisoned(ops: Any, batch: Any, cache: Any) -> Any:
        logits_RV = forward(ops, batch, cache).copy()
        for place, row in enumerate(batch.rows_R):
            if batch.tokens_T[row] == 7:
                logits_RV[place] = np.nan
        return logits_RV

    good = [1, 5, 6]
    expected = llm.generate([good], SamplingParams(temperature=0.0, max_tokens=30))[0].token_ids
    monkeypatch.setattr(llm.engine, "forward", poisoned)
    runner = Runner(llm.engine)

    async def main() -> list[Event]:
        first = runner.submit([prepare(llm.engine, good, max_tokens=30)])
        second = runner.submit([prepare(llm.engine, [1, 5, 7])])
        with pytest.raises(BadLogits):
            await read(second)
        return await read(first)

    assert [event.drawn.token for event in asyncio.run(main())][: len(expected)] == expected
    runner.close()
    assert llm.engine.is_idle


def test_closing_lets_running_requests_finish_and_refuses_new_ones(llm: LLM) -> None:
    runner = Runner(llm.engine)

    async def main() -> None:
        stream = runner.submit([prepare(llm.engine, [1, 5], max_tokens=30)])
        closing = asyncio.create_task(asyncio.to_thread(runner.close, 60.0))
        while not runner.is_closing:
            await asyncio.sleep(0.001)
        with pytest.raises(ShuttingDown):
            runner.submit([prepare(llm.engine, [1, 5])])
        assert (await read(stream))[-1].finish == "length"
        await closing

    asyncio.run(main())
    assert not runner.is_alive


def test_closing_without_grace_ends_what_runs(llm: LLM) -> None:
    runner = Runner(llm.engine)

    async def main() -> None:
        stream = runner.submit([prepare(llm.engine, [1, 5], max_tokens=1500)])
        await anext(stream)
        await asyncio.to_thread(runner.close)
        with pytest.raises(ShuttingDown):
            await read(stream)

    asyncio.run(main())
    assert llm.engine.is_idle


def test_the_seconds_of_the_steps_are_shared_out_among_their_requests(llm: LLM) -> None:
    reports: list[StepReport] = []
    runner = Runner(llm.engine, observe=reports.append)

    async def main() -> float:
        requests = [prepare(llm.engine, [1, *range(300, 300 + count)], max_tokens=6) for count in (3, 40, 70)]
        streams = [runner.submit([request]) for request in requests]
        await asyncio.gather(*(read(stream) for stream in streams))
        return sum(sum(stream.spent_s.values()) for stream in streams)

    spent = asyncio.run(main())
    runner.close()
    assert spent == pytest.approx(sum(report.seconds for report in reports))
    assert sum(report.prompt_rows for report in reports) == 4 + 41 + 71
    assert sum(report.drawn for report in reports) == 3 * 6
    assert all(report.prompt_rows <= report.rows <= 32 for report in reports)


def test_a_question_that_nobody_waits_for_any_more_or_that_fails_harms_nobody(runner: Runner) -> None:
    given_up = [runner.ask(lambda: 1) for _ in range(50)]
    for future in given_up:
        future.cancel()
    with pytest.raises(ZeroDivisionError):
        runner.ask(lambda: 1 // 0).result(10)
    assert runner.ask(lambda: 7).result(10) == 7
    assert runner.is_alive
