"""Quality figures on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from twofold import LLM
from twofold.bench.quality import layer_errors, score, stretch_tokens, texts_of
from twofold.ops.logprobs import divergence, log_softmax

PROSE = [{"text": "The quick brown fox jumps over the lazy dog."}]


@pytest.fixture(scope="module")
def demo() -> LLM:
    return LLM("demo")


def test_divergence_is_the_textbook_sum() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    found = divergence(log_softmax(np.log(p)[None].astype(np.float32)), log_softmax(np.log(q)[None].astype(np.float32)))
    assert found.tolist() == pytest.approx([float((p * np.log(p / q)).sum())], rel=1e-5)


def test_a_model_does_not_diverge_from_itself(demo: LLM) -> None:
    found = score(demo, texts_of(demo, PROSE), demo)
    assert found.figures()["kl_mean"] == 0.0
    assert found.figures()["agreement"] == 1.0


def test_streaming_gives_what_all_logits_at_once_give(demo: LLM) -> None:
    """Figures from stretches of 5 tokens against the definition written over whole arrays."""
    small = LLM("demo", step_tokens=5)
    coarse = LLM("demo", dtype="w4a8", step_tokens=5)
    ids, mask = next(texts_of(demo, PROSE))
    found = score(coarse, texts_of(coarse, PROSE), small)
    theirs, ours = (log_softmax(llm.logits(ids))[:-1] for llm in (demo, LLM("demo", dtype="w4a8")))
    assert all(mask[1:])
    np.testing.assert_allclose(found.losses, -ours[np.arange(len(ids) - 1), ids[1:]], rtol=1e-6)
    np.testing.assert_allclose(found.divergences, (np.exp(theirs) * (theirs - ours)).sum(axis=-1), atol=1e-6)
    np.testing.assert_array_equal(found.same, theirs.argmax(axis=-1) == ours.argmax(axis=-1))
    assert 0 < found.figures()["kl_mean"] < 1


def test_expert_loads_add_up_to_the_fair_share(demo: LLM) -> None:
    found = score(demo, texts_of(demo, PROSE))
    np.testing.assert_allclose(found.load.mean(axis=1), 1.0, rtol=1e-6)
    assert found.load.shape[1] == 8
    assert (found.losses > 0).all()
    assert "kl_mean" not in found.figures()


def test_errors_grow_from_layer_to_layer_and_vanish_against_oneself(demo: LLM) -> None:
    coarse = LLM("demo", dtype="w4a8")
    assert layer_errors(demo, demo, texts_of(demo, PROSE)) == [(0.0, 0.0)] * 4
    errors = layer_errors(coarse, demo, texts_of(demo, PROSE))
    assert len(errors) == 4
    assert 0 < errors[0][1] < errors[3][1] < 1


def test_a_large_vocabulary_means_short_stretches() -> None:
    assert stretch_tokens(3072) == 512
    assert stretch_tokens(202048) == 41
    assert stretch_tokens(10**9) == 1
