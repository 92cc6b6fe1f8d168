"""What tasks ask of a model, against its logits over whole texts."""

from __future__ import annotations

import numpy as np
import pytest

from twofold import LLM
from twofold.bench.scoring import Scorer, sampling_of, windows
from twofold.errors import SettingsError
from twofold.ops.logprobs import log_softmax

CONTEXT, TEXT = "The quick brown fox jumps over", " the lazy dog. It sleeps."


@pytest.fixture(scope="module")
def demo() -> LLM:
    return LLM("demo", step_tokens=5, context=64)


def by_hand(llm: LLM, ids: list[int], first: int) -> tuple[float, bool]:
    """Sum of log-probabilities of ids[first:], and whether each of them was the best."""
    logprobs = log_softmax(llm.logits(ids))[first - 1 : -1]
    chosen = logprobs[np.arange(len(ids) - first), ids[first:]]
    return float(chosen.sum()), bool((logprobs.argmax(axis=1) == ids[first:]).all())


def test_a_continuation_is_scored_behind_its_context(demo: LLM) -> None:
    found = Scorer(demo).continuation(CONTEXT, TEXT)
    assert found[0] == pytest.approx(by_hand(demo, demo.encode(CONTEXT + TEXT), len(demo.encode(CONTEXT)))[0], rel=1e-5)
    assert not found[1]


def test_choices_after_one_context_are_each_scored_with_their_own_tokens(demo: LLM) -> None:
    scorer = Scorer(demo)
    for text in (" dog", " cat", " a", " the lazy", " dog"):
        ids = demo.encode(CONTEXT + text)
        assert scorer.continuation(CONTEXT, text)[0] == pytest.approx(
            by_hand(demo, ids, len(demo.encode(CONTEXT)))[0], rel=1e-5
        )


def test_what_greedy_decoding_says_is_greedy(demo: LLM) -> None:
    context = demo.encode(CONTEXT)
    logits = demo.logits(context)
    best = demo.tokenizer.decode([int(logits[-1].argmax())])
    assert demo.encode(CONTEXT + best)[:-1] == context
    assert Scorer(demo).continuation(CONTEXT, best)[1]


def test_a_space_at_the_end_of_a_context_belongs_to_the_token_it_begins(demo: LLM) -> None:
    """The context's own last token is not what the whole is cut into."""
    ids = demo.encode("over the lazy")
    expected = by_hand(demo, ids, len(demo.encode("over")))[0]
    assert Scorer(demo).continuation("over ", "the lazy")[0] == pytest.approx(expected, rel=1e-5)


def test_without_a_context_the_first_token_follows_the_begin_token(demo: LLM) -> None:
    assert Scorer(demo).continuation("", TEXT)[0] == pytest.approx(by_hand(demo, demo.encode(TEXT), 1)[0], rel=1e-5)
    assert Scorer(demo).continuation(CONTEXT, "") == (0.0, True)


def test_contexts_that_are_too_long_lose_their_beginning(demo: LLM) -> None:
    ids = demo.encode(CONTEXT * 20 + TEXT)
    count = len(ids) - len(demo.encode(CONTEXT * 20))
    expected = by_hand(demo, ids[-64:], 64 - count)
    found = Scorer(demo).continuation(CONTEXT * 20, TEXT)
    whole = log_softmax(demo.logits(ids[-65:-1]))[-count:]
    assert found[0] == pytest.approx(float(whole[np.arange(count), ids[-count:]].sum()), rel=1e-5)
    assert found[0] == pytest.approx(expected[0], rel=0.1)  # one token more or less in front
    with pytest.raises(SettingsError, match="Raise --context"):
        Scorer(demo).continuation(CONTEXT, TEXT * 40)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 16, 17, 30])
def test_windows_count_every_token_once_behind_a_full_context(count: int) -> None:
    counted: list[int] = []
    for index, (start, stop, last) in enumerate(windows(count, 8)):
        assert stop - start - 1 <= 8
        assert index == 0 or stop - start - 1 == 8
        counted += range(stop - last, stop)
    assert counted == list(range(1, count))


def test_a_whole_text_is_scored_in_windows(demo: LLM) -> None:
    scorer = Scorer(demo)
    short = demo.encode(CONTEXT)
    assert scorer.whole(CONTEXT) == pytest.approx(by_hand(demo, short, 1)[0], rel=1e-5)
    long = (CONTEXT + TEXT) * 7
    ids, expected = demo.encode(long), 0.0
    assert 129 < len(ids) <= 193
    for first, stop in ((1, 65), (65, 129), (129, len(ids))):
        window = log_softmax(demo.logits(ids[max(0, stop - 65) : stop - 1]))[first - stop :]
        expected += float(window[np.arange(stop - first), ids[first:stop]].sum())
    assert scorer.whole(long) == pytest.approx(expected, rel=1e-5)
    assert scorer.whole("") == 0.0


def test_answers_end_before_their_stop_text(demo: LLM) -> None:
    free, stopped = (
        Scorer(demo).answers([CONTEXT, "def add(a, b):\n"], {"until": until, "max_gen_toks": 20})
        for until in ([], ["\n", " "])
    )
    for whole, part in zip(free, stopped, strict=True):
        assert whole.startswith(part)
        assert not {"\n", " "} & set(part)
    assert Scorer(demo).answers([CONTEXT * 20], {"max_gen_toks": 3})[0]
    with pytest.raises(SettingsError, match="Raise --context"):
        Scorer(demo).answers([CONTEXT], {"max_gen_toks": 64})


def test_generation_settings_of_tasks_become_ours() -> None:
    assert sampling_of({}).temperature == 0.0
    assert sampling_of({"until": "\n", "do_sample": False, "temperature": 0.7}).temperature == 0.0
    assert sampling_of({"until": "\n"}).stop == ("\n",)
    sampled = sampling_of({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 9})
    assert (sampled.temperature, sampled.top_p, sampled.max_tokens) == (0.7, 0.9, 9)
    with pytest.raises(SettingsError, match="typical_p"):
        sampling_of({"typical_p": 0.3})
    with pytest.raises(SettingsError, match="beams"):
        sampling_of({"num_beams": 4})
