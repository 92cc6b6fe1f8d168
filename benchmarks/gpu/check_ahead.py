"""Steps launched behind others on a device: the answers of one step after the other, whoever comes and ends."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.gpu import networks
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams

WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.9, "top_p": 0.9},
    {"top_k": 5, "logprobs": 2},
    {"repetition_penalty": 1.3, "temperature": 0.5},
    {"min_tokens": 4, "top_p": 0.999},
)
"""The last one keeps more ids than are put in order at first, so its rows are looked at twice."""
CROWDS = (1, 2, 3, 6, 24, 40)
ENDING = 8
"""Every so many ids end an answer."""


MOST_DIFFERENT = 0.45
"""A row of no use makes a step one row larger, and sums of another order may flip a token of a random network; a wrong
token would change nearly every answer.
"""


def check(device: str, dtypes: tuple[str, ...] = ("bf16", "w4a8")) -> list[str]:
    """That too many answers differ, or that nothing was launched behind another step."""
    architecture, failures = networks.network(networks.SMALL), []
    for dtype in dtypes:
        weights = networks.random_weights(architecture, dtype, device)
        ops = [networks.build_ops(device) for _ in range(2)]
        engines = [networks.build_engine(own, architecture, weights, max(CROWDS), 256) for own in ops]
        ops[0].runs_ahead, ops[1].runs_ahead = False, True
        (plain, _), (ahead, flights) = (answers(engine, architecture.vocabulary) for engine in engines)
        differing = sum(one != other for one, other in zip(plain, ahead, strict=True))
        told = f"steps behind others, {dtype}: {flights} steps, {differing} of {len(plain)} answers differ"
        print(told, flush=True)
        if differing > MOST_DIFFERENT * len(plain) or not flights:
            failures.append(told)
    return failures


def answers(engine: Engine, vocabulary: int) -> tuple[list[list[tuple[Any, ...]]], int]:
    """Tokens of crowds of requests that end at different times, and how many steps were in flight between steps."""
    source, found, flights = random.Random(7), dict[int, list[tuple[Any, ...]]](), 0
    for crowd in CROWDS:
        for number in range(crowd):
            params = SamplingParams(max_tokens=source.randint(1, 30), seed=number, **WAYS[number % len(WAYS)])
            prompt = source.choices(range(vocabulary), k=source.randint(1, 40))
            found[engine.add(prompt, params, range(0, vocabulary, ENDING)).id] = []
        while not engine.is_idle:
            for event in engine.step():
                found[event.request_id].append((event.drawn.token, event.drawn.logprob, event.finish))
            flights += engine.flight is not None
    return list(found.values()), flights
