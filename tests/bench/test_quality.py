"""Quality figures on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from twofold import LLM
from twofold.bench.quality import Scored, answer_mask, divergence, log_softmax, score


def scored(logits: np.ndarray) -> Scored:
    logprobs = log_softmax(logits.astype(np.float32))
    return Scored(-logprobs[:, 0], [logprobs], np.ones((1, 1), np.float32))


def test_a_model_does_not_diverge_from_itself() -> None:
    same = scored(np.random.default_rng(0).normal(size=(20, 9)))
    assert divergence(same, same) == (0.0, 0.0, 1.0)


def test_divergence_is_the_textbook_sum() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    mean, _, agreement = divergence(scored(np.log(p)[None]), scored(np.log(q)[None]))
    assert mean == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-5)
    assert agreement == 0.0


def test_only_what_the_assistant_says_counts() -> None:
    llm = LLM("demo")
    ids = llm.encode_messages([{"role": "user", "content": "Hi"}])
    answer = [*llm.tokenizer.encode("\n\nYes"), llm.tokenizer.special_ids["<|eot|>"]]
    mask = answer_mask(llm, [*ids[: -len(llm.tokenizer.encode("\n\n"))], *answer])
    assert mask.sum() == len(answer)
    assert not mask[: len(ids) - len(llm.tokenizer.encode("\n\n"))].any()


def test_expert_loads_add_up_to_the_fair_share() -> None:
    llm = LLM("demo")
    found = score(llm, [{"text": "The quick brown fox jumps over the lazy dog."}])
    np.testing.assert_allclose(found.load.mean(axis=1), 1.0, rtol=1e-6)
    assert found.load.shape[1] == 8
    assert (found.losses > 0).all()
