"""Ops that watch what a network does."""

from __future__ import annotations

import numpy as np

from twofold import LLM, SamplingParams
from twofold.ops.observe import KEPT_CALLS, ExpertLoad
from twofold.ops.packed import Dense
from twofold.ops.reference import ReferenceOps

ANSWER = KEPT_CALLS + 9


def test_every_token_is_counted_once_in_each_layer_it_passes_and_answers_stay_the_same() -> None:
    llm = LLM("demo", dtype="w8a8", threads=1, guess_tokens=0)
    plain = llm.generate("def f(", SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True))[0]
    watched = ExpertLoad(llm.engine.ops)
    llm.engine.ops = watched
    assert watched.counted() == []
    again = llm.generate("def f(", SamplingParams(temperature=0.0, max_tokens=ANSWER, ignore_eos=True))[0]
    assert again.token_ids == plain.token_ids
    counts = watched.counted()
    assert len(counts) == 4
    everyone = plain.prompt_tokens + ANSWER - 1  # of the prompt only the last token passes the last layer's experts
    assert [int(count_E.sum()) for count_E in counts] == [everyone] * 3 + [ANSWER]


def test_a_step_that_failed_half_way_does_not_shift_the_layers() -> None:
    ops = ExpertLoad(ReferenceOps())
    identity = np.eye(3, dtype=np.float32)
    first_ED, second_ED = Dense(values=identity), Dense(values=identity[::-1].copy())
    x_TD = np.array([[1.0, 0, 0]], np.float32)
    for router in (first_ED, first_ED, second_ED):  # the second layer of the first step never ran
        ops.route(x_TD, router, 1)
    assert [count_E.tolist() for count_E in ops.counted()] == [[2, 0, 0], [0, 0, 1]]
