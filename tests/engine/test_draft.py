"""The draft model follows sequences in a cache of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.toys import build_engine, open_toy
from twofold import SamplingParams
from twofold.backends.cpu.ops import CpuOps
from twofold.engine import invariants
from twofold.engine.blocks import CacheLayout
from twofold.engine.draft import DraftModel, Wish
from twofold.engine.request import Request, Sequence

Toys = Callable[[str], tuple[Path, Any]]
NAME = "interleaved-qk-norm"  # local layers with chunks of eight beside a global one


def sequence(number: int, tokens: list[int], stop_ids: frozenset[int] = frozenset()) -> Sequence:
    request = Request(
        id=number, prompt=tuple(tokens), params=SamplingParams(), seed=0, stop_ids=stop_ids, max_tokens=50
    )
    return Sequence(request=request, tokens=list(tokens))


def draft_model(toys: Toys, global_blocks: int = 16, context: int = 64, step_tokens: int = 8) -> DraftModel:
    folder = toys(NAME)[0]
    engine = build_engine(folder, CpuOps(kv_dtype="f32"))
    layout = CacheLayout(block_size=8, global_blocks=global_blocks, local_blocks=global_blocks, chunk=8)
    return DraftModel(engine.ops, engine.forward, open_toy(folder)[0].cache_shape, layout, context, step_tokens)


@pytest.fixture
def greedy(toy_folder: Toys) -> Callable[[list[int], int], tuple[int, ...]]:
    """What the same network says next, from an engine of its own."""
    engine = build_engine(toy_folder(NAME)[0], CpuOps(kv_dtype="f32"))

    def answer(tokens: list[int], count: int) -> tuple[int, ...]:
        engine.add(tokens, SamplingParams(temperature=0.0, max_tokens=count))
        return tuple(event.drawn.token for _ in range(count) for event in engine.step())

    return answer


def guess(model: DraftModel, one: Sequence, most: int) -> tuple[int, ...]:
    assert model.read(one)
    found = model.guess([Wish(sequence=one, most=most)])
    invariants.check_draft(model)
    return found[one.request.id]


def test_guesses_are_what_the_network_says_greedily(toy_folder: Toys, greedy: Callable[..., Any]) -> None:
    model = draft_model(toy_folder)
    one = sequence(0, [5, 17, 40, 8, 61, 9, 33, 21, 90, 4, 7, 50])
    for _ in range(6):  # wrong guesses are rolled back, right ones kept, chunk boundaries crossed
        found = guess(model, one, 5)
        assert found == greedy(one.tokens, 5)
        one.tokens += [found[0], found[1], (found[2] + 1) % 90]
    one.tokens += found  # unseen tokens, more than a step holds
    one.tokens += [3, 4, 5, 6, 7, 8, 9]
    assert guess(model, one, 3) == greedy(one.tokens, 3)
    assert guess(model, one, 3) == greedy(one.tokens, 3)  # asked again without a new token


def test_several_sequences_are_guessed_for_together(toy_folder: Toys, greedy: Callable[..., Any]) -> None:
    model = draft_model(toy_folder)
    many = [sequence(0, [5, 6, 7]), sequence(1, [60, 50, 40, 30, 20, 10, 9, 8, 7, 6])]
    wishes = [Wish(sequence=many[0], most=4), Wish(sequence=many[1], most=2)]
    assert all(model.read(one) for one in many)
    assert model.guess(wishes) == {0: greedy(many[0].tokens, 4), 1: greedy(many[1].tokens, 2)}
    invariants.check_draft(model)


def test_a_guess_ends_where_the_answer_would(toy_folder: Toys, greedy: Callable[..., Any]) -> None:
    tokens = [5, 6, 7, 8]
    said = greedy(tokens, 5)
    model = draft_model(toy_folder)
    assert guess(model, sequence(0, tokens, frozenset({said[2]})), 5) == said[: said.index(said[2]) + 1]


def test_a_guess_ends_where_nothing_can_be_drawn(toy_folder: Toys, greedy: Callable[..., Any]) -> None:
    tokens = [5, 6, 7, 8]
    said = greedy(tokens, 2)
    one = sequence(0, tokens)
    params = SamplingParams(bad_sequences=tuple((said[1], token) for token in range(96)))
    one.request = replace(one.request, params=params)
    assert guess(draft_model(toy_folder), one, 5) == said


def test_behind_counts_what_was_not_read(toy_folder: Toys) -> None:
    model = draft_model(toy_folder)
    one = sequence(0, list(range(3, 23)))
    assert model.behind(one) == 20
    assert model.read(one)
    assert model.behind(one) == 1
    one.tokens += [1, 2, 3]
    assert model.behind(one) == 4


def test_the_sequence_that_waited_longest_makes_room(toy_folder: Toys, greedy: Callable[..., Any]) -> None:
    model = draft_model(toy_folder, global_blocks=6)
    many = [sequence(number, [number + 3] * 15) for number in range(4)]
    for one in many:
        assert guess(model, one, 3) == greedy(one.tokens, 3)
    assert list(model.followers) == [2, 3]
    assert guess(model, many[0], 3) == greedy(many[0].tokens, 3)


def test_no_guess_where_there_is_no_room(toy_folder: Toys) -> None:
    model = draft_model(toy_folder, global_blocks=2)
    one = sequence(0, [7] * 30)
    assert not model.read(one)
    assert model.guess([Wish(sequence=one, most=3)]) == {}
    invariants.check_draft(model)


def test_no_guess_beyond_the_context_of_the_draft_model(toy_folder: Toys) -> None:
    model = draft_model(toy_folder, context=16)
    assert not model.read(sequence(0, [7] * 16))
    assert model.guess([Wish(sequence=sequence(1, [7] * 8), most=9)]) == {}
    assert len(model.guess([Wish(sequence=sequence(1, [7] * 8), most=8)])[1]) == 8


def test_finished_requests_are_forgotten(toy_folder: Toys) -> None:
    model = draft_model(toy_folder)
    for number in range(3):
        guess(model, sequence(number, [3, 4, 5]), 2)
    model.keep_only({1})
    assert list(model.followers) == [1]
    model.keep_only(())
    assert len(model.blocks.free_global) == 16
    invariants.check_draft(model)
