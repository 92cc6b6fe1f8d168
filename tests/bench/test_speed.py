"""What the speed of a model is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from twofold import LLM
from twofold.bench.speed import read_and_decode


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="w8a8", threads=1, guess_tokens=0)


@pytest.mark.parametrize("is_alike", [False, True])
def test_prompts_are_random_or_one_token_throughout(llm: LLM, is_alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[int]] = []
    add = llm.engine.add

    def listening(prompt: Sequence[int], *more: Any) -> Any:
        seen.append(prompt)
        return add(prompt, *more)

    monkeypatch.setattr(llm.engine, "add", listening)
    clock = iter((0.0, 2.0, 2.0 + 4.0))
    assert read_and_decode(llm, 8, 3, 5, seed=1, clock=lambda: next(clock), is_alike=is_alike) == (12.0, 15 / 4.0)
    assert [len(prompt) for prompt in seen] == [8, 8, 8]
    assert (len({token for prompt in seen for token in prompt}) == 1) == is_alike
