"""Exported graphs in ONNX Runtime against the reference, in float32: whole prompts, pieces, batches, long answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.conftest import Exported
from tests.export.graphs import TARGETS, Loop, engine_of, graph_engine, opened, relative_error
from tests.models.test_parity import run_to_end
from tests.toys import TOYS

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4
"""Largest difference relative to the largest logit: both sides compute in float32, in different orders."""
PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, 88, 40)]
"""Forty tokens: five chunks of eight."""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TOYS)
def test_logits_equal_the_reference_across_chunks(name: str, target: str, exported: Exported) -> None:
    checkpoint, export = exported(name, target)
    expected = np.concatenate(list(engine_of(checkpoint).score(PROMPT)))
    for step_tokens in (64, 13, 1):
        found = np.concatenate(list(graph_engine(checkpoint, export, step_tokens=step_tokens).score(PROMPT)))
        assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["scout", "maverick", "llama3", "demo"])
def test_five_hundred_greedy_tokens_are_those_of_the_reference(name: str, target: str, exported: Exported) -> None:
    """The reference reads the whole answer at once and must prefer every token of it, which is the same."""
    checkpoint, export = exported(name, target)
    engine = graph_engine(checkpoint, export)
    (answer,) = run_to_end(engine, [PROMPT[:5]], 500).values()
    text = PROMPT[:5] + answer
    logits = np.concatenate(list(engine_of(checkpoint, step_tokens=600).score(text)))
    assert len(answer) == 500
    assert logits[4:-1].argmax(axis=-1).tolist() == answer


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["scout", "maverick", "llama3"])
def test_a_mixed_batch_under_the_engine_gives_the_answers_of_the_reference(
    name: str, target: str, exported: Exported
) -> None:
    checkpoint, export = exported(name, target)
    prompts = [PROMPT[:3], PROMPT[:8], PROMPT[:17], PROMPT[:31], PROMPT[5:12]]
    expected = run_to_end(engine_of(checkpoint, step_tokens=11), prompts, 12)
    assert run_to_end(graph_engine(checkpoint, export, step_tokens=11), prompts, 12) == expected


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["scout", "interleaved-qk-norm", "llama3"])
def test_four_unequal_prompts_in_one_padded_batch_are_right(name: str, target: str, exported: Exported) -> None:
    """Present goes in again as past, without anything of twofold in between."""
    checkpoint, export = exported(name, target)
    prompts = [PROMPT[:3], PROMPT[:21], PROMPT[4:12], PROMPT[2:39]]
    longest = max(map(len, prompts))
    ids, positions = np.zeros((4, longest), np.int64), np.full((4, longest), -1, np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], positions[row, : len(prompt)] = prompt, np.arange(len(prompt))
    loop = Loop(opened(export))
    logits = loop.feed(ids, positions, [row * longest + len(prompt) - 1 for row, prompt in enumerate(prompts)])
    texts = [list(prompt) for prompt in prompts]
    for _ in range(20):
        for text, token in zip(texts, logits.argmax(axis=-1).tolist(), strict=True):
            text.append(token)
        places = np.array([[len(text) - 1] for text in texts])
        logits = loop.feed(np.array([[text[-1]] for text in texts]), places, [0, 1, 2, 3])
    reference = engine_of(checkpoint)
    for text, prompt, last in zip(texts, prompts, logits, strict=True):
        expected = np.concatenate(list(reference.score(text)))
        assert expected[len(prompt) - 1 : -1].argmax(axis=-1).tolist() == text[len(prompt) :]
        assert relative_error(last, expected[-1]) < TOLERANCE


@pytest.mark.parametrize("target", TARGETS)
def test_a_local_layer_carries_no_more_than_its_chunk(target: str, exported: Exported) -> None:
    _, export = exported("scout", target)
    loop = Loop(opened(export))
    loop.feed(np.array([PROMPT[:21]]), np.arange(21)[None], [20])
    assert loop.past is not None
    assert loop.past["local_positions"].tolist() == [[16, 17, 18, 19, 20]]
    assert loop.past["past_key_values.0.key"].shape[2] == 5
    assert loop.past["past_key_values.3.key"].shape[2] == 21
    loop.feed(np.array([PROMPT[21:24]]), np.arange(21, 24)[None], [0])
    assert loop.past["past_key_values.0.value"].shape[2] == 0


@pytest.mark.parametrize("target", TARGETS)
def test_the_demo_model_is_right_beyond_its_chunk(target: str, exported: Exported) -> None:
    checkpoint, export = exported("demo", target)
    tokens = np.random.default_rng(5).integers(0, 3000, 300).tolist()
    expected = np.concatenate(list(engine_of(checkpoint, step_tokens=300).score(tokens)))
    found = np.concatenate(list(graph_engine(checkpoint, export, step_tokens=128).score(tokens)))
    assert relative_error(found, expected) < TOLERANCE
