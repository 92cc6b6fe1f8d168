"""Guessing measured on the demo model: figures that fit together, and answers that are the same."""

from __future__ import annotations

from twofold import LLM, SamplingParams
from twofold.bench.guessing import TASKS, measure_guessing, task_prompts, usual_ways

PARAMS = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def test_every_text_is_answered_in_every_way() -> None:
    llm = LLM("demo", draft="demo")
    own = llm.engine.guesser
    seen: list[str] = []
    found = list(measure_guessing(llm, task_prompts(llm), PARAMS, 2, seen.append, usual_ways))
    assert [(item.task, item.way) for item in found] == [
        (task, way) for task in TASKS for way in ("no guesses", "look-up", "look-up and draft")
    ]
    assert all(item.tokens == 24 for item in found)
    assert all(item.steps == 24 for item in found if item.way == "no guesses")
    for item in found:
        kept = sum(item.accepted.values())
        assert item.tokens == item.steps + kept
        assert kept <= sum(item.proposed.values())
        assert 0 <= item.read_s <= item.draft_s
    assert llm.engine.guesser is own
    assert len(seen) == 18


def test_without_a_draft_model_there_are_two_ways() -> None:
    assert list(usual_ways(LLM("demo"))) == ["no guesses", "look-up"]
