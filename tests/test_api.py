"""LLM from the outside, on the model that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twofold import LLM, SamplingParams
from twofold.errors import InvalidSampling, OutOfMemory, RequestTooLong, SettingsError
from twofold.loading import pack_model

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo")


def test_a_batch_answers_as_each_prompt_alone(llm: LLM) -> None:
    prompts = ["The city of", "def main(", "import os\n", "A"]
    together = [answer.text for answer in llm.generate(prompts, GREEDY)]
    assert together == [llm.generate(prompt, GREEDY)[0].text for prompt in prompts]


def test_streamed_pieces_make_the_whole_answer(llm: LLM) -> None:
    pieces = list(llm.stream("The value of", GREEDY))
    assert "".join(piece.text for piece in pieces) == llm.generate("The value of", GREEDY)[0].text
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish in ("stop", "length")


def test_a_chat_ends_at_the_end_of_its_turn(llm: LLM) -> None:
    answer = llm.chat(HELLO, SamplingParams(temperature=0.0, max_tokens=200))
    assert answer.finish == "stop"
    assert "<|" not in answer.text
    assert answer.token_ids[-1] in llm.loaded.model.eos_ids


def test_leaving_a_stream_early_frees_its_blocks(llm: LLM) -> None:
    free = len(llm.engine.blocks.free_global)
    for _ in llm.stream("The", SamplingParams(max_tokens=50, seed=1)):
        break
    assert llm.engine.is_idle
    assert len(llm.engine.blocks.free_global) == free


def test_a_stop_string_ends_the_answer_before_it(llm: LLM) -> None:
    whole = llm.generate("import ", SamplingParams(temperature=0.0, max_tokens=30))[0].text
    stop = whole[5:8]
    cut = llm.generate("import ", SamplingParams(temperature=0.0, max_tokens=30, stop=(stop,)))[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish == "stop"
    assert llm.engine.is_idle


def test_a_seed_fixes_a_sampled_answer(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, top_p=1.0, seed=5, max_tokens=20)
    first, second = (llm.generate("The", params)[0].token_ids for _ in range(2))
    assert first == second
    batch = llm.generate(["The", "A", "The"], params)
    assert batch[0].token_ids == batch[2].token_ids == first


def test_logits_have_one_row_per_token(llm: LLM) -> None:
    ids = llm.encode("The value of a thing")
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.loaded.model.architecture.vocabulary)
    assert logits.dtype == np.float32
    assert int(logits[-1].argmax()) == llm.generate(ids, GREEDY)[0].token_ids[0]


def test_logprobs_are_those_of_the_logits(llm: LLM) -> None:
    ids = llm.encode("The value of")
    drawn = llm.generate(ids, SamplingParams(temperature=0.0, max_tokens=1, logprobs=3))[0].tokens[0]
    logits = llm.logits(ids)[-1].astype(np.float64)
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    assert drawn.logprob == pytest.approx(expected[drawn.token], abs=1e-5)
    assert [token for token, _ in drawn.alternatives] == list(np.argsort(-expected)[:3])


def test_logit_bias_and_penalties_change_what_is_drawn(llm: LLM) -> None:
    plain = llm.generate("The", GREEDY)[0].token_ids
    banned = llm.generate("The", SamplingParams(temperature=0.0, max_tokens=1, logit_bias={plain[0]: -100.0}))
    assert banned[0].token_ids[0] != plain[0]
    forced = llm.generate("The", SamplingParams(temperature=0.0, max_tokens=4, logit_bias={77: 100.0}))
    assert forced[0].token_ids == [77] * 4
    params = SamplingParams(temperature=0.0, max_tokens=4, logit_bias={77: 50.0}, frequency_penalty=2.0)
    assert llm.generate("The", params)[0].token_ids[0] == 77


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(llm: LLM) -> None:
    with pytest.raises(RequestTooLong, match=r"2100 tokens.*2048"):
        llm.generate([5] * 2100)
    with pytest.raises(RequestTooLong, match="answer may take 100"):
        llm.generate([[5] * 2000], SamplingParams(max_tokens=100))
    assert llm.engine.is_idle


def test_one_bad_prompt_in_a_batch_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(RequestTooLong):
        llm.generate([[5, 6], []], GREEDY)
    assert llm.engine.is_idle
    with pytest.raises(InvalidSampling, match="token id 99999"):
        llm.generate([[5, 99999]], GREEDY)


def test_settings_are_checked_by_name() -> None:
    with pytest.raises(SettingsError, match="did you mean threads"):
        LLM("demo", thread=2)
    with pytest.raises(SettingsError, match="at most 256"):
        LLM("demo", threads=257)
    with pytest.raises(SettingsError, match="at most 2048"):
        LLM("demo", context=4096)
    with pytest.raises(SettingsError, match="w4a8"):
        LLM("demo", dtype="int4")


def test_too_little_memory_is_said_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.placing.available_memory", lambda: 300 * 2**20)
    with pytest.raises(OutOfMemory, match=r"--dtype|context"):
        LLM("demo", dtype="f32", cache_tokens=500_000)


@pytest.mark.parametrize("dtype", ["f32", "w8a8", "w4a8"])
def test_every_dtype_answers(dtype: str) -> None:
    assert LLM("demo", dtype=dtype).chat(HELLO, GREEDY).text


def test_the_reference_backend_gives_the_same_greedy_answer(llm: LLM) -> None:
    reference = LLM("demo", dtype="bf16", backend="reference")
    assert reference.chat(HELLO, GREEDY).text == llm.chat(HELLO, GREEDY).text


def test_a_packed_folder_gives_the_same_answers(tmp_path: Path) -> None:
    folder = pack_model("demo", tmp_path / "packed", "w4a8")
    packed, plain = LLM(folder), LLM("demo", dtype="w4a8")
    assert packed.loaded.settings.dtype == "w4a8"
    ids = plain.encode("The value of a thing")
    np.testing.assert_array_equal(packed.logits(ids), plain.logits(ids))
    assert packed.chat(HELLO, GREEDY).text == plain.chat(HELLO, GREEDY).text
    with pytest.raises(SettingsError, match="holds w4a8 weights"):
        LLM(folder, dtype="bf16")
    with pytest.raises(SettingsError, match="exists"):
        pack_model("demo", folder, "w4a8")
    with pytest.raises(SettingsError, match="packed already"):
        pack_model(folder, tmp_path / "again", "w8a8")


def test_the_bookkeeping_is_checked_after_every_step_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWOFOLD_CHECK", "1")
    llm = LLM("demo", dtype="w8a8", threads=1)
    llm.generate("Hello", SamplingParams(max_tokens=2))
    llm.engine.blocks.global_pool.holders[3] += 1  # a block is lost
    with pytest.raises(AssertionError, match="holders"):
        llm.generate("Hello", SamplingParams(max_tokens=2))


def test_a_prompt_is_judged_and_nothing_need_be_said(llm: LLM) -> None:
    ids = llm.encode("The mayor of Quillmere is")
    found = llm.generate(ids, SamplingParams(max_tokens=0, prompt_logprobs=2))[0]
    assert (found.text, found.tokens, found.finish) == ("", [], "length")
    assert [score.token for score in found.prompt_scores] == ids[1:]
    logits = llm.logits(ids)[:-1].astype(np.float64)
    expected = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits, ids[1:], strict=True)]
    assert [score.logprob for score in found.prompt_scores] == pytest.approx(expected, abs=1e-4)


def test_bad_words_are_not_said(llm: LLM) -> None:
    plain = llm.chat(HELLO, GREEDY).text
    word = max(plain.split(), key=len)
    assert word not in llm.chat(HELLO, SamplingParams(temperature=0.0, max_tokens=12, bad_words=(word,))).text
