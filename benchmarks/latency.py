"""How long answers pause while somebody's long prompt is read, and how long that prompt waits for its first token.

python -m benchmarks.latency demo build/peers/llama-1b-w4a8-62a69713    4 streams, then a prompt of 4,000 tokens

Each limit of a step (--max-step-ms; 0 is none) is measured in turn, --repeats times. Then one stream and the largest
limit, with and without guesses beside the prompt: how many tokens the stream got meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.results import write_result
from twofold import LLM, SamplingParams
from twofold.engine.engine import Engine
from twofold.engine.pace import Pace

STREAMING = SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True)
ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)
SETTLE_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds between deliveries to the streams before and while the prompt was read, tokens they got meanwhile."""

    before_s: list[float]
    meanwhile_s: list[float]
    tokens: int
    first_token_s: float


class Watch:
    """Steps an engine and notes when the tokens of each request came."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.times: dict[int, list[float]] = {}

    def step(self) -> None:
        """One step."""
        events = self.engine.step()
        now = time.perf_counter()
        for event in events:
            self.times.setdefault(event.request_id, []).append(now)

    def pauses(self, requests: list[int], begin: float, end: float) -> list[float]:
        """Seconds between deliveries that ended in this time."""
        return [
            later - at
            for request_id in requests
            for at, later in zip(self.times[request_id], self.times[request_id][1:], strict=False)
            if begin <= later <= end and later > at
        ]


def random_text(tokens: int, source: random.Random, vocabulary: int) -> list[int]:
    """Ids that nobody has sent before."""
    return [1, *(source.randrange(300, vocabulary - 300) for _ in range(tokens - 1))]


def measure(llm: LLM, streams: int, prompt_tokens: int, seed: int, guesses_beside: bool = True) -> Measured:
    """Streams that decode, then a long prompt."""
    engine, source, watch = llm.engine, random.Random(seed), Watch(llm.engine)
    repeating = random_text(6, source, engine.limits.vocabulary) * 8  # look-up has something to find
    running = [engine.add([*repeating, 400 + number], STREAMING).id for number in range(streams)]
    start = time.perf_counter()
    for _ in range(SETTLE_STEPS):
        watch.step()
    guesser = engine.guesser
    engine.guesser = guesser if guesses_beside else None
    begin = time.perf_counter()
    long = engine.add(random_text(prompt_tokens, source, engine.limits.vocabulary), ONE_TOKEN).id
    while long not in watch.times:
        watch.step()
    end = watch.times[long][0]
    engine.guesser = guesser
    for request_id in [*running, long]:
        engine.cancel(request_id)
    return Measured(
        before_s=watch.pauses(running, start, begin),
        meanwhile_s=watch.pauses(running, begin, end),
        tokens=sum(begin <= at <= end for request_id in running for at in watch.times[request_id]),
        first_token_s=end - begin,
    )


def milliseconds(values: list[float]) -> dict[str, float]:
    """p50, p99 and the longest."""
    cuts = statistics.quantiles(values, n=100)
    shares = {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(values)}
    return {name: round(1000 * value, 1) for name, value in shares.items()}


def compare_limits(llm: LLM, limits: list[int], streams: int, prompt_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """Every limit in turn."""
    found: dict[int, list[Measured]] = {limit: [] for limit in limits}
    for repeat in range(repeats):
        for limit in limits:
            llm.engine.pace = Pace(limit / 1000)
            measure(llm, 1, 600, repeat)  # the pace has seen a prompt before, as in a server
            found[limit].append(measure(llm, streams, prompt_tokens, repeat))
    return [
        {
            "max_step_ms": limit,
            "streams": streams,
            "prompt_tokens": prompt_tokens,
            "before": milliseconds([pause for one in many for pause in one.before_s]),
            "meanwhile": milliseconds([pause for one in many for pause in one.meanwhile_s]),
            "first_token_s": round(statistics.median(one.first_token_s for one in many), 2),
        }
        for limit, many in found.items()
    ]


def compare_guessing(llm: LLM, limit: int, prompt_tokens: int, repeats: int) -> list[dict[str, Any]]:
    """One stream with and without guesses while the prompt is read."""
    found: dict[bool, list[Measured]] = {False: [], True: []}
    llm.engine.pace = Pace(limit / 1000)
    measure(llm, 1, 600, 0)
    for repeat in range(repeats):
        for beside in found:
            found[beside].append(measure(llm, 1, prompt_tokens, repeat, beside))
    return [
        {
            "max_step_ms": limit,
            "guesses_beside_prompts": beside,
            "prompt_tokens": prompt_tokens,
            "stream_tokens_per_s": round(statistics.median(one.tokens / one.first_token_s for one in many), 1),
            "first_token_s": round(statistics.median(one.first_token_s for one in many), 2),
        }
        for beside, many in found.items()
    ]


def main() -> None:
    """Measure every model named and write one result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--limits", type=int, nargs="+", default=[0, 100, 200, 400])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    figures = []
    for model in chosen.models:
        llm = LLM(model, dtype="w8a8" if model == "demo" else None, threads=chosen.threads)
        llm.settle()
        prompt_tokens = min(chosen.prompt_tokens, llm.loaded.settings.context - 1)
        rows = compare_limits(llm, chosen.limits, chosen.streams, prompt_tokens, chosen.repeats)
        rows += compare_guessing(llm, max(chosen.limits), prompt_tokens, chosen.repeats)
        figures += [{"model": model.rsplit("/", 1)[-1], **row} for row in rows]
        for row in rows:
            print(json.dumps(row))
    print(write_result("latency", "python -m benchmarks.latency " + " ".join(sys.argv[1:]), figures))


if __name__ == "__main__":
    main()
