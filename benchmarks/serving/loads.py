"""What is asked of a server: levels of streams at once, and one more request while many run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.client import Answer, BadAnswer, Body, ask, ask_all
from benchmarks.serving.figures import check, level_figures, milliseconds
from benchmarks.serving.words import prompt

SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_k": 40, "top_p": 1.0, "min_p": 0.0}
"""Drawn, so that a random network wanders through its vocabulary (and its experts) and does not repeat itself."""
BUSY = 16
"""Streams that run while one more request arrives."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Lengths and numbers, the same for every server.

    streams: how many at once, level by level; requests: of each stream, one after the other; probes: requests that
    arrive one by one while BUSY streams run. No prompt comes twice.
    """

    streams: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    requests: int
    probes: int
    vocabulary: int

    @property
    def slots(self) -> int:
        """Most requests at once."""
        return max(*self.streams, BUSY + 1 if self.probes else 1)

    @property
    def busy_tokens(self) -> int:
        """Length of the answers that run while probes arrive; they are left when the last probe is answered."""
        return 4 * self.answer_tokens

    def bodies(self, count: int, seed: int, answer_tokens: int) -> list[Body]:
        """So many requests. Seeds of different rounds and levels must be 10,000 apart."""
        return [
            {
                "prompt": prompt(self.vocabulary, self.prompt_tokens, seed + number),
                "max_tokens": answer_tokens,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                "seed": seed + number,
                **SAMPLING,
            }
            for number in range(count)
        ]


async def run_level(port: int, load: Load, streams: int, seed: int) -> dict[str, float]:
    """So many streams at once. Raises BadAnswer when an answer is not as long as asked for."""
    bodies = load.bodies(streams * load.requests, seed, load.answer_tokens)
    answers = await ask_all(port, bodies, streams)
    return level_figures(answers, check(answers, load.prompt_tokens, load.answer_tokens))


async def run_probes(port: int, load: Load, seed: int) -> dict[str, float]:
    """Times to the first token of requests that arrive while BUSY streams run, and what the streams notice of them.

    Raises BadAnswer when a stream ended before the last probe was answered: then nothing was measured under load.
    """
    async with busy(port, load, seed) as streams:
        probes = []
        for body in load.bodies(load.probes, seed + BUSY, 4):
            probes.append(await ask(port, body))
            await asyncio.sleep(0.2)
        if any(task.done() for task, _ in streams):
            raise BadAnswer("a stream ended before the last probe was answered; use longer answers or fewer probes")
        gaps = [gap for _, answer in streams for gap in gaps_between(answer, probes[0].sent_s)]
    waits = [item.first_s for item in check(probes, load.prompt_tokens, 4)]
    return {**milliseconds(waits, "first_token"), **milliseconds(gaps, "between_tokens_of_others")}


def gaps_between(answer: Answer, from_s: float) -> list[float]:
    """Seconds between the events of a running stream that came after `from_s`."""
    times = [at_s for at_s, _ in answer.events if at_s >= from_s]
    return [after - before for before, after in itertools.pairwise(times)]


@contextlib.asynccontextmanager
async def busy(port: int, load: Load, seed: int) -> AsyncIterator[list[tuple[asyncio.Task[Answer], Answer]]]:
    """BUSY streams, each of which has begun to answer; they are left at the end."""
    answers = [Answer() for _ in range(BUSY)]
    bodies = load.bodies(BUSY, seed, load.busy_tokens)
    tasks = [asyncio.ensure_future(ask(port, body, into=answer)) for body, answer in zip(bodies, answers, strict=True)]
    try:
        while not all(answer.events for answer in answers):
            await asyncio.sleep(0.05)
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it
        yield list(zip(tasks, answers, strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
