"""Every network against transformers, in float32, on every backend: the whole prompt, pieces of it, token by token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toys import TOYS, build_engine, logits_of
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.ops.cases import ROUNDS_TO_BF16
from twofold.ops.interface import Ops

pytestmark = pytest.mark.torch

ToyFolder = Callable[[str], tuple[Path, Any]]
TOLERANCE = 1e-4
"""Largest difference relative to the largest logit: both sides compute in float32, in different orders."""

PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, 88, 40)]
"""Forty tokens: five chunks of eight."""


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def run_to_end(engine: Engine, prompts: list[list[int]], count: int) -> dict[int, list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    answers = {engine.add(prompt, params).id: [] for prompt in prompts}
    while not engine.is_idle:
        for event in engine.step():
            answers[event.request_id].append(event.drawn.token)
    return answers


@pytest.mark.parametrize("name", TOYS)
def test_logits_equal_those_of_transformers(name: str, ops: Ops, toy_folder: ToyFolder) -> None:
    folder, oracle = toy_folder(name)
    found = np.concatenate(list(build_engine(folder, ops).score(PROMPT)))
    assert relative_error(found, logits_of(oracle, PROMPT)) < TOLERANCE


@pytest.mark.parametrize("step_tokens", [1, 5, 13])
@pytest.mark.parametrize("name", TOYS)
def test_pieces_of_a_prompt_give_the_logits_of_the_whole(
    name: str, step_tokens: int, ops: Ops, toy_folder: ToyFolder
) -> None:
    folder, oracle = toy_folder(name)
    found = np.concatenate(list(build_engine(folder, ops, step_tokens=step_tokens).score(PROMPT)))
    assert relative_error(found, logits_of(oracle, PROMPT)) < TOLERANCE


@pytest.mark.parametrize("name", TOYS)
def test_greedy_tokens_in_a_mixed_batch_equal_those_of_transformers(name: str, ops: Ops, toy_folder: ToyFolder) -> None:
    folder, oracle = toy_folder(name)
    prompts = [PROMPT[:3], PROMPT[:8], PROMPT[:17], PROMPT[:31], PROMPT[5:12]]
    answers = run_to_end(build_engine(folder, ops, step_tokens=11), prompts, 12)
    for prompt, answer in zip(prompts, answers.values(), strict=True):
        tokens = list(prompt)
        for _ in range(12):
            tokens.append(int(logits_of(oracle, tokens)[-1].argmax()))
        assert answer == tokens[len(prompt) :]


@pytest.mark.parametrize("name", ["scout", "maverick", "llama3-tied"])
def test_the_last_layer_answers_for_wanted_rows_only(
    name: str, ops: Ops, toy_folder: ToyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, oracle = toy_folder(name)
    engine, norm, seen = build_engine(folder, ops, step_tokens=16), ops.norm, []
    monkeypatch.setattr(ops, "norm", lambda x_TD, *given: seen.append(len(x_TD)) or norm(x_TD, *given))
    answer = next(iter(run_to_end(engine, [PROMPT], 1).values()))
    whole = 2 * oracle.config.num_hidden_layers - 1  # norms up to the last layer's attention; two more follow it
    assert seen == [count for step, rows in [(16, 0), (16, 0), (8, 1)] for count in [step] * whole + [rows] * 2]
    assert answer == [int(logits_of(oracle, PROMPT)[-1].argmax())]


@pytest.mark.parametrize("dtype", ["bf16", "w8a8", "w4a8"])
@pytest.mark.parametrize("name", ["scout", "maverick", "odd-sizes", "llama3-tied"])
def test_packed_weights_give_the_same_logits_on_every_backend(
    name: str, dtype: str, ops: Ops, toy_folder: ToyFolder, request: pytest.FixtureRequest
) -> None:
    """Codes are bit-equal; a code may flip where float32 sums of other orders round differently, hence 5 %.

    So may a rounded activation, on backends that round them.
    """
    from twofold.ops.reference import ReferenceOps

    folder, _ = toy_folder(name)
    rounds = request.node.callspec.params["ops"] in ROUNDS_TO_BF16
    expected = np.concatenate(list(build_engine(folder, ReferenceOps(rounds_to_bf16=rounds), dtype).score(PROMPT)))
    found = np.concatenate(list(build_engine(folder, ops, dtype).score(PROMPT)))
    assert relative_error(found, expected) < (1e-4 if dtype == "bf16" and not rounds else 0.05)


def test_an_answer_does_not_depend_on_its_neighbours(ops: Ops, toy_folder: ToyFolder) -> None:
    folder, _ = toy_folder("scout")
    prompts = [PROMPT[:9], PROMPT[3:20], PROMPT[:30]]
    params = SamplingParams(temperature=1.0, seed=7, max_tokens=10, ignore_eos=True)
    alone = []
    for prompt in prompts:
        engine = build_engine(folder, ops, "w8a8")
        engine.add(prompt, params)
        alone.append([event.drawn.token for _ in range(10) for event in engine.step()])
    engine = build_engine(folder, ops, "w8a8", step_tokens=64)
    ids = [engine.add(prompt, params).id for prompt in prompts]
    together: dict[int, list[int]] = {request: [] for request in ids}
    while not engine.is_idle:
        for event in engine.step():
            together[event.request_id].append(event.drawn.token)
    assert [together[request] for request in ids] == alone
