"""Prompts that are judged: every token but the first, by what came before it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from twofold import LLM, SamplingParams
from twofold.engine import invariants
from twofold.engine.limits import LEAST_JUDGING, EngineLimits
from twofold.engine.request import Event
from twofold.errors import InvalidSampling
from twofold.ops.types import Drawn

TEXT = [1, *range(400, 700)]  # across a chunk of the demo model


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="w8a8", threads=1, prefix_cache=True, step_tokens=128)


def run(llm: LLM, prompt: list[int], **params: Any) -> list[Event]:
    llm.engine.add(prompt, SamplingParams(temperature=0.0, **{"max_tokens": 3, **params}))
    events: list[Event] = []
    while not llm.engine.is_idle:
        events += llm.engine.step()
        invariants.check(llm.engine.scheduler)
    return events


def expected(llm: LLM, prompt: list[int], count: int) -> list[Drawn]:
    """From all logits of the text at once."""
    logits_TV = llm.logits(prompt)[:-1].astype(np.float64)
    shifted_TV = logits_TV - logits_TV.max(axis=1, keepdims=True)
    logprobs_TV = shifted_TV - np.log(np.exp(shifted_TV).sum(axis=1, keepdims=True))
    found = []
    for row_V, token in zip(logprobs_TV, prompt[1:], strict=True):
        best = np.argsort(-row_V, kind="stable")[:count]
        alternatives = tuple((int(one), float(row_V[one])) for one in best)
        rank = 1 + int((row_V > row_V[token]).sum())
        found.append(Drawn(token=token, logprob=float(row_V[token]), alternatives=alternatives, rank=rank))
    return found


def compare(found: tuple[Drawn, ...], wanted: list[Drawn]) -> None:
    assert [(one.token, one.rank) for one in found] == [(one.token, one.rank) for one in wanted]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in wanted], abs=1e-4)
    for one, other in zip(found, wanted, strict=True):
        assert [token for token, _ in one.alternatives] == [token for token, _ in other.alternatives]


def test_every_token_is_judged_as_all_logits_at_once_would(llm: LLM) -> None:
    events = run(llm, TEXT, prompt_logprobs=3)
    compare(events[0].scores, expected(llm, TEXT, 3))
    assert [event.scores for event in events[1:]] == [(), ()]
    assert [event.drawn.token for event in events] == [event.drawn.token for event in run(llm, TEXT)]


def test_a_prompt_that_is_known_is_judged_all_the_same_and_serves_others(llm: LLM) -> None:
    run(llm, TEXT)
    assert run(llm, TEXT)[0].cached > 0
    events = run(llm, TEXT, prompt_logprobs=0)
    assert events[0].cached == 0
    assert len(events[0].scores) == len(TEXT) - 1
    other = [1, *range(700, 900)]
    run(llm, other, prompt_logprobs=0)
    assert run(llm, other)[0].cached > 0


def test_a_step_holds_no_more_logits_than_it_may(llm: LLM) -> None:
    llm.engine.scheduler.judging_rows = 7
    llm.engine.add(TEXT, SamplingParams(max_tokens=1, prompt_logprobs=0))
    llm.engine.add(TEXT[::-1], SamplingParams(max_tokens=1, prompt_logprobs=0))
    llm.engine.add([1, 5, 6], SamplingParams(max_tokens=5))
    sizes, first = [], []
    while (plan := llm.engine.scheduler.plan()) is not None:
        sizes.append(sum(len(item.judging) for item in plan.slices))
        first += [event.request_id for event in llm.engine.advance(plan)]
    llm.engine.scheduler.judging_rows = llm.engine.limits.judging_rows
    assert max(sizes) == 7
    assert sum(sizes) == 2 * 300
    assert len(set(first[:5])) == 1  # the third was not held up by those that are judged


def test_large_vocabularies_have_few_rows_judged_at_a_time() -> None:
    sizes = {"context": 64, "step_tokens": 512, "max_sequences": 4}
    assert EngineLimits(vocabulary=1000, **sizes).judging_rows == 512
    assert EngineLimits(vocabulary=128_256, **sizes).judging_rows == 130
    assert EngineLimits(vocabulary=10**8, **sizes).judging_rows == LEAST_JUDGING


def test_nothing_but_judging_needs_no_room_for_an_answer(llm: LLM) -> None:
    context = llm.engine.limits.context
    text = [1, *(400 + number % 1000 for number in range(context - 1))]
    events = run(llm, text, prompt_logprobs=0, max_tokens=0)
    assert [event.finish for event in events] == ["length"]
    assert len(events[0].scores) == context - 1


def test_a_prompt_of_one_token_has_nothing_to_judge(llm: LLM) -> None:
    assert run(llm, [1], prompt_logprobs=2)[0].scores == ()


@pytest.mark.parametrize("params", [
    {"max_tokens": 0},
    {"prompt_logprobs": -1},
    {"allowed_token_ids": ()},
    {"bad_words": ("",)},
    {"bad_words": "word"},
    {"bad_sequences": ((),)},
    {"bad_sequences": ((1,),) * 1025},
])  # fmt: skip
def test_settings_out_of_range_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidSampling):
        SamplingParams(**params)


def test_ids_outside_the_vocabulary_are_refused(llm: LLM) -> None:
    for params in ({"allowed_token_ids": (10**6,)}, {"bad_sequences": ((1, 10**6),)}):
        with pytest.raises(InvalidSampling, match="1000000"):
            llm.engine.add([1], SamplingParams(**params))  # type: ignore[arg-type]


def test_only_allowed_tokens_are_drawn_and_no_sequence_that_is_bad(llm: LLM) -> None:
    allowed = tuple(range(500, 520))
    tokens = [event.drawn.token for event in run(llm, TEXT, max_tokens=30, allowed_token_ids=allowed)]
    assert set(tokens) <= set(allowed)
    plain = [event.drawn.token for event in run(llm, TEXT, max_tokens=6)]
    bad = (tuple(plain[2:4]), tuple(plain[3:5]))
    tokens = [event.drawn.token for event in run(llm, TEXT, max_tokens=30, bad_sequences=bad)]
    assert tokens[:3] == plain[:3]
    assert not set(pairwise(tokens)) & set(bad)


def test_settings_that_leave_nothing_are_told_so(llm: LLM) -> None:
    request = llm.engine.add([1], SamplingParams(allowed_token_ids=(7,), bad_sequences=((7,),)))
    with pytest.raises(InvalidSampling, match="no token may come next"):
        llm.engine.step()
    llm.engine.cancel(request.id)
