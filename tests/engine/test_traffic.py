"""Everything at once: whatever a request meets on its way, its answer is the one it gets alone.

Random requests join, are cancelled, give way in a tiny cache, share beginnings, come several at a time, have
priorities, owners, constraints and bans, are guessed ahead and have their prompts judged. Each is also run alone on an
engine that does nothing but that. Tokens, log-probabilities and judgements must be the same to the bit; the invariants
hold after every step, and all blocks are free in the end.

    TWOFOLD_TRAFFIC_SECONDS=600 python -m pytest -m slow -s tests/engine/test_traffic.py
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.lagging import Lagging
from tests.engine.test_guess import Whims
from tests.toys import build_engine, open_toy
from twofold import SamplingParams
from twofold.backends.cpu.ops import CpuOps
from twofold.engine.blocks import plan_layout
from twofold.engine.draft import DraftModel
from twofold.engine.engine import Engine
from twofold.engine.guess import Guesser
from twofold.engine.limits import EngineLimits
from twofold.engine.masks import mask_of
from twofold.engine.pace import Pace
from twofold.engine.plan import Plan
from twofold.engine.request import Event, Request
from twofold.errors import InvalidSampling
from twofold.ops.types import Drawn

Toys = Callable[[str], tuple[Path, Any]]
CONTEXT = 64
VOCABULARY = 90


class Residues:
    """A constraint with a memory: what may come next depends on the sum of what was said."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.sum = 0

    def allowed(self) -> bytes:
        return mask_of([token for token in range(VOCABULARY) if (token + self.sum) % self.modulus], VOCABULARY)

    def accept(self, token: int) -> None:
        self.sum += token


class Moods(Pace):
    """Another limit for every step."""

    def __init__(self, source: random.Random) -> None:
        super().__init__(0.0)
        self.source = source

    @property
    def rows(self) -> int | None:
        return self.source.choice([None, 1, 3, 9])


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request."""

    prompt: list[int]
    params: SamplingParams
    modulus: int | None
    salt: bytes
    owner: bytes

    def prepare(self, engine: Engine) -> Request:
        constraint = Residues(self.modulus) if self.modulus else None
        return engine.prepare(self.prompt, self.params, (2,), constraint, self.salt, self.owner)


@dataclass
class Answer:
    """What came of one; `error` where nothing could be drawn."""

    drawn: list[Drawn] = field(default_factory=list)
    scores: tuple[Drawn, ...] = ()
    finish: str | None = None
    error: bool = False

    def take(self, event: Event) -> None:
        self.drawn.append(event.drawn)
        self.scores = self.scores or event.scores
        self.finish = event.finish


def random_case(source: random.Random, beginnings: list[list[int]]) -> Case:
    """Any mixture of settings; half of the prompts begin like others."""
    start = source.choice([[], *beginnings])
    prompt = [*start[: source.randrange(len(start) + 1)], *source.choices(range(3, 90), k=source.randrange(1, 20))]
    is_scored = source.random() < 0.25
    some = source.sample(range(3, 90), 40)
    params = SamplingParams(
        temperature=source.choice([0.0, 0.0, 0.7, 1.0]), seed=source.randrange(10**6),
        top_p=source.choice([None, 0.8]), top_k=source.choice([None, 5]),
        max_tokens=source.randrange(0 if is_scored else 1, CONTEXT - len(prompt)),
        min_tokens=source.choice([0, 0, 6]), ignore_eos=source.random() < 0.5,
        stop_token_ids=tuple(source.sample(range(90), source.choice([0, 2]))),
        repetition_penalty=source.choice([None, None, 1.2]), presence_penalty=source.choice([0.0, 0.0, 0.5]),
        logprobs=source.choice([None, 0, 3]), priority=source.choice([0, 0, 0, -3, 5]),
        logit_bias={token: source.uniform(-5, 5) for token in some[: source.choice([0, 3])]},
        allowed_token_ids=tuple(some) if source.random() < 0.2 else None,
        bad_sequences=(*((token,) for token in some[:3]), (5, 6), (7, 8, 9)) if source.random() < 0.3 else (),
        prompt_logprobs=source.choice([0, 2]) if is_scored else None,
    )  # fmt: skip
    if source.random() < 0.05:  # the second token is impossible
        params = replace(params, allowed_token_ids=(7,), bad_sequences=((7, 7),))
    modulus = source.choice([None, None, None, 3, 2])
    return Case(
        prompt=prompt,
        params=params,
        modulus=modulus,
        salt=source.choice([b"", b"x"]),
        owner=source.choice([b"a", b"b"]),
    )


def alone(engine: Engine, case: Case) -> Answer:
    """The answer on an engine that has nothing else to do, keeps nothing and guesses nothing."""
    answer = Answer()
    request = case.prepare(engine)
    engine.enqueue(request)
    try:
        while not engine.is_idle:
            for event in engine.step():
                answer.take(event)
    except InvalidSampling:
        engine.cancel(request.id)
        answer.error = True
    return answer


def busy_engine(main: Path, draft: Path, source: random.Random, blocks: int, lags: bool) -> Engine:
    """A tiny cache that keeps prefixes, a draft model, moods, and the invariants after every step.

    lags: nothing is done before somebody waits for it, and there is no draft model.
    """
    architecture = open_toy(main)[0]
    ops, shape = CpuOps(kv_dtype="f32"), architecture.cache_shape
    size = plan_layout(shape.chunk, 64, 24, 1).block_size
    limits = EngineLimits(
        context=CONTEXT, step_tokens=source.choice([5, 24, 40]), max_sequences=source.choice([2, 4, 6]),
        vocabulary=VOCABULARY, prefix_cache=True, checks=True,
    )  # fmt: skip
    layout = plan_layout(shape.chunk, blocks * size, limits.step_tokens, limits.max_sequences)
    forward = build_engine(main, ops).forward
    engine = Engine(ops, forward, shape, layout, limits)
    if lags:
        engine.ops = Lagging(ops, source)
        engine.forward = engine.ops.lag(forward)
        engine.guesser = Guesser(Whims(source, ("lookup",))) if source.random() < 0.5 else None
    else:
        small = build_engine(draft, CpuOps(kv_dtype="f32"), dtype="w4a8")
        model = DraftModel(small.ops, small.forward, open_toy(draft)[0].cache_shape, small.blocks.layout, 60, 24)
        engine.guesser = Guesser(Whims(source), model)
    engine.scheduler.judging_rows = source.choice([1, 4, 100])
    engine.pace = Moods(source)
    return engine


def serve(engine: Engine, cases: list[Case], source: random.Random, counts: Counter[str]) -> dict[int, Answer]:
    """Answers by the number of the case; some are cancelled on the way and marked so.

    Steps are launched behind others only while nobody waits, so for a device that lags requests come in crowds.
    """
    crowds = [0] * 25 + [1, 3] if engine.ops.runs_ahead else [0, 0, 1, 3]
    answers: dict[int, Answer] = {}
    number_of: dict[int, int] = {}
    coming = list(enumerate(cases))
    while coming or not engine.is_idle:
        for _ in range(min(source.choice(crowds), len(coming))):
            number, case = coming.pop()
            request = case.prepare(engine)
            number_of[request.id], answers[number] = number, Answer()
            engine.enqueue(request)
        if number_of and source.random() < 0.02:
            victim = source.choice(sorted(number_of))
            if not answers[number_of[victim]].finish:
                answers[number_of[victim]].finish = "cancelled"
                counts["cancelled"] += 1
            engine.cancel(victim)
        counts["steps"] += 1
        try:
            events = engine.step()
        except InvalidSampling:  # as the runner does: one by one, and only those at fault end
            events = one_by_one(engine, {request: answers[number] for request, number in number_of.items()})
        for event in events:
            answers[number_of[event.request_id]].take(event)
        plan = engine.latest
        counts["mixed steps"] += bool(plan and plan.decoding and plan.reading_rows)
        counts["guesses beside prompts"] += bool(plan and plan.reading_rows and any(s.guesses for s in plan.slices))
    return answers


def one_by_one(engine: Engine, answers: dict[int, Answer]) -> list[Event]:
    plan, events = engine.in_flight, []
    assert plan is not None
    for item in plan.slices:
        try:
            events += engine.advance(Plan(slices=(item,)))
        except InvalidSampling:
            answers[item.sequence.request.id].error = True
            engine.cancel(item.sequence.request.id)
    engine.in_flight = None
    return events


def compare(toys: Toys, seed: int, rounds: int, counts: Counter[str], lags: bool = False) -> None:
    """So many rounds of some dozens of requests, on both kinds of network."""
    print(f"seed {seed}")
    source = random.Random(seed)
    for main, draft, blocks in (("interleaved-qk-norm", "interleaved-qk-norm", 14), ("llama3", "llama2", 4)):
        plain = build_engine(toys(main)[0], CpuOps(kv_dtype="f32"))
        for _ in range(rounds):
            engine = busy_engine(toys(main)[0], toys(draft)[0], source, blocks, lags)
            beginnings = [source.choices(range(3, 90), k=40) for _ in range(2)]
            cases = [random_case(source, beginnings) for _ in range(24)]
            cases += [source.choice(cases) for _ in range(8)]  # several choices of one prompt
            answers = serve(engine, cases, source, counts)
            for number, case in enumerate(cases):
                check(answers[number], alone(plain, case), counts)
            layout = engine.blocks.layout
            assert len(engine.blocks.free_global) == layout.global_blocks
            assert len(engine.blocks.free_local) == layout.local_blocks
            tally(engine, counts)
        counts["requests"] += rounds * 32


def check(found: Answer, expected: Answer, counts: Counter[str]) -> None:
    """The same to the bit, or as far as it came before it was cancelled."""
    if found.finish == "cancelled":
        assert found.drawn == expected.drawn[: len(found.drawn)]
        assert found.scores in ((), expected.scores)
        return
    assert found == expected
    counts["tokens"] += len(found.drawn)
    counts["judged tokens"] += len(found.scores)
    counts["impossible"] += found.error


def tally(engine: Engine, counts: Counter[str]) -> None:
    counts["preemptions"] += engine.scheduler.preemptions
    counts["known tokens"] += engine.blocks.known_tokens
    if engine.guesser:
        counts["guessed tokens"] += sum(engine.guesser.stats.proposed.values())
        counts["right guesses"] += sum(engine.guesser.stats.accepted.values())
    if isinstance(engine.ops, Lagging):
        counts["steps behind others"] += engine.ops.flights
        counts["taken back"] += engine.ops.taken_back


def test_every_answer_is_the_one_it_is_alone(toy_folder: Toys) -> None:
    counts: Counter[str] = Counter()
    compare(toy_folder, seed=37, rounds=2, counts=counts)
    print(dict(counts))
    wanted = ["cancelled", "preemptions", "known tokens", "right guesses", "judged tokens", "impossible"]
    wanted += ["guesses beside prompts", "mixed steps"]
    assert [name for name in wanted if not counts[name]] == []


def test_on_a_device_that_lags_too(toy_folder: Toys) -> None:
    counts: Counter[str] = Counter()
    compare(toy_folder, seed=41, rounds=3, counts=counts, lags=True)
    print(dict(counts))
    wanted = ["cancelled", "preemptions", "known tokens", "right guesses", "judged tokens", "impossible"]
    wanted += ["mixed steps", "steps behind others", "taken back"]
    assert [name for name in wanted if not counts[name]] == []


@pytest.mark.slow
def test_every_answer_is_the_one_it_is_alone_for_as_long_as_asked(toy_folder: Toys) -> None:
    end = time.monotonic() + float(os.environ.get("TWOFOLD_TRAFFIC_SECONDS", "60"))
    seed, counts = random.randrange(10**6), Counter[str]()
    while time.monotonic() < end:
        compare(toy_folder, seed, 1, counts, lags=bool(seed % 2))
        seed += 1
    print(dict(counts))
