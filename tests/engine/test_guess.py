"""Guessing changes how fast an answer comes and nothing else."""

from __future__ import annotations

import random

import pytest

from twofold import LLM, SamplingParams
from twofold.engine import invariants
from twofold.engine.blocks import Blocks, plan_layout
from twofold.engine.draft import DraftPolicy, Lookup
from twofold.engine.request import Request, Sequence
from twofold.engine.scheduler import Plan, Scheduler
from twofold.ops.types import Drawn

PASSAGE = "Quillmere has 7215 inhabitants. The mayor of Quillmere is Torvane."
MESSAGES = [{"role": "user", "content": f"{PASSAGE}\n\nHow many people live in Quillmere?"}]


def test_a_guess_is_what_followed_the_latest_tokens() -> None:
    lookup = Lookup()
    assert lookup.guess([1, 2, 3, 4, 1, 2], 3) == (3, 4, 1)
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9], 3) == ()
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9, 1, 2], 2) == (9, 1)  # the latest occurrence counts
    assert lookup.guess([1, 2, 3, 4, 1, 2, 9, 1, 2, 3], 9) == (4, 1, 2, 9, 1, 2, 3)  # the longest ending counts


def test_a_short_text_guesses_nothing() -> None:
    assert Lookup().guess([], 3) == ()
    assert Lookup().guess([5], 3) == ()
    assert Lookup().guess([5, 5, 5], 0) == ()


def test_the_policy_settles_on_what_was_fastest() -> None:
    for fastest in (0, 1, 3, 7):
        policy = DraftPolicy(most=7)
        for _ in range(200):
            length = policy.length()
            policy.learn(length, 1, 0.1 if length == fastest else 0.2)
        chosen = [policy.length() for _ in range(100)]
        assert chosen.count(fastest) > 90


def test_the_policy_goes_on_probing() -> None:
    policy = DraftPolicy(most=3)
    for _ in range(100):
        policy.learn(policy.length(), 1, 0.1)
    for length in (1, 3):
        policy.rates[length] = 1.0  # was slow once
    tried = set()
    for _ in range(100):
        length = policy.length()
        tried.add(length)
        policy.learn(length, 1, 0.1)
    assert 1 in tried


@pytest.mark.parametrize("params", [
    SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True),
    SamplingParams(temperature=0.8, top_p=0.9, seed=4, max_tokens=60, ignore_eos=True),
    SamplingParams(temperature=0.0, max_tokens=60, repetition_penalty=1.3, frequency_penalty=0.5, ignore_eos=True),
    SamplingParams(temperature=0.7, seed=4, max_tokens=7),
])  # fmt: skip
def test_answers_with_and_without_guessing_are_the_same(params: SamplingParams) -> None:
    plain, guessing = LLM("demo", guess_tokens=0), LLM("demo", guess_tokens=7)
    for length in (1, 3, 7):
        guessing.engine.draft.rates = {0: 1.0, 1: 1.0, 3: 1.0, 7: 1.0, length: 1e9}  # always guess so many
        expected, found = plain.chat(MESSAGES, params), guessing.chat(MESSAGES, params)
        assert found.token_ids == expected.token_ids
        assert (found.text, found.finish) == (expected.text, expected.finish)
    assert guessing.engine.is_idle


def test_a_stop_string_inside_a_guessed_stretch_ends_the_answer() -> None:
    plain, guessing = LLM("demo", guess_tokens=0), LLM("demo", guess_tokens=7)
    guessing.engine.draft.rates = {0: 1.0, 1: 1.0, 3: 1.0, 7: 1e9}
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True, stop=(" is",))
    assert guessing.chat(MESSAGES, params).text == plain.chat(MESSAGES, params).text
    assert guessing.engine.is_idle


def test_random_traffic_with_guesses_keeps_the_invariants() -> None:
    """Draws follow a fixed random text, so guesses are sometimes right, and every answer must follow it too."""
    seed = 23
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(20):
        text = [source.randrange(4) for _ in range(200)]
        served = Scheduler(Blocks(plan_layout(source.choice([None, 8]), 64, 16, 3)), 16, 3)
        answers: dict[int, list[int]] = {}
        for number in range(12):
            count = source.randrange(1, 30)
            request = Request(
                id=number, prompt=tuple(text[:count]), params=SamplingParams(), seed=0, stop_ids=frozenset(),
                max_tokens=source.randrange(1, 30),
            )  # fmt: skip
            served.add(Sequence(request=request, tokens=text[:count]))
            answers[number] = []
        while (plan := plan_with_guesses(served, source)) is not None:
            drawn = []
            for item in plan.slices:
                if item.samples:
                    known = len(item.sequence.tokens)
                    drawn += [Drawn(token=text[known + place]) for place in range(len(item.guesses) + 1)]
            for event in served.commit(plan, drawn):
                answers[event.request_id].append(event.drawn.token)
            invariants.check(served)
        assert len(served.blocks.free_global) == served.blocks.layout.global_blocks
        assert all(answers.values())


def plan_with_guesses(served: Scheduler, source: random.Random) -> Plan | None:
    served.guess_tokens = source.choice([0, 1, 3, 7])
    return served.plan()
