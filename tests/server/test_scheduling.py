"""Who goes first and what is scored, through OpenAI's client against a live server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import Live, started

MESSAGES: Any = [{"role": "user", "content": "How many people live in Quillmere?"}]


def test_a_priority_changes_no_answer(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model="demo", messages=MESSAGES, temperature=0, max_tokens=8, extra_body={"priority": priority}
        )
        for priority in (0, -5, 100)
    ]
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_a_priority_out_of_range_is_a_400_that_says_what_may_be(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from -100 to 100"):
        client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"priority": 101})


TEXT = "The mayor of Quillmere is Torvane."


def complete(client: openai.OpenAI, **params: Any) -> Any:
    extra = {name: params.pop(name) for name in list(params) if name in EXTRA}
    return client.completions.create(**{"model": "demo", "temperature": 0, **params}, extra_body=extra)


def tokens_of(live: Live, text: str) -> list[int]:
    found: list[int] = httpx.post(live.url + "/tokenize", json={"prompt": text}).json()["tokens"]
    return found


EXTRA = ("prompt_logprobs", "allowed_token_ids", "bad_words")


def test_an_echo_begins_with_the_prompt_and_tells_how_likely_each_of_its_tokens_was(client: openai.OpenAI) -> None:
    plain = complete(client, prompt=TEXT, max_tokens=4, logprobs=2).choices[0]
    found = complete(client, prompt=TEXT, max_tokens=4, logprobs=2, echo=True)
    choice = found.choices[0]
    assert choice.text == TEXT + plain.text
    count = found.usage.prompt_tokens
    told = choice.logprobs
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    assert all(value is not None and value <= 0 for value in told.token_logprobs[1:])
    assert told.tokens[count:] == plain.logprobs.tokens
    assert told.token_logprobs[count:] == plain.logprobs.token_logprobs
    pieces = [choice.text[offset:][: len(token)] for offset, token in zip(told.text_offset, told.tokens, strict=True)]
    assert pieces[1:] == told.tokens[1:]  # the first is the begin token, which is not shown


def test_an_echo_alone_generates_nothing(client: openai.OpenAI) -> None:
    found = complete(client, prompt=[TEXT, "def f("], max_tokens=0, echo=True, logprobs=1)
    assert [choice.text for choice in found.choices] == [TEXT, "def f("]
    assert [choice.finish_reason for choice in found.choices] == ["length", "length"]
    assert found.usage.completion_tokens == 0
    with pytest.raises(openai.BadRequestError, match="only with echo"):
        complete(client, prompt=TEXT, max_tokens=0)


def test_a_streamed_echo_is_the_whole_one_in_pieces(client: openai.OpenAI) -> None:
    whole = complete(client, prompt=TEXT, max_tokens=6, logprobs=1, echo=True).choices[0]
    chunks = list(complete(client, prompt=TEXT, max_tokens=6, logprobs=1, echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for one in told for token in one.tokens] == whole.logprobs.tokens
    assert [offset for one in told for offset in one.text_offset] == whole.logprobs.text_offset


def test_the_sum_that_lm_eval_takes_is_the_likelihood_of_a_continuation(live: Live, client: openai.OpenAI) -> None:
    """As lm-eval's local-completions asks: ids, one token more than is scored, the last entry left out."""
    answer = complete(client, prompt="The city of", max_tokens=5, logprobs=0).choices[0]
    ids, context = tokens_of(live, "The city of" + answer.text), len(tokens_of(live, "The city of"))
    told = complete(client, prompt=[ids], max_tokens=1, logprobs=1, seed=1234, echo=True).choices[0].logprobs
    assert len(told.token_logprobs) == len(ids) + 1
    assert sum(told.token_logprobs[context:-1]) == pytest.approx(sum(answer.logprobs.token_logprobs), abs=1e-4)
    for value, best in zip(told.token_logprobs[context:-1], told.top_logprobs[context:-1], strict=True):
        assert value == max(best.values())  # greedy


def test_prompt_logprobs_have_vllms_shape_in_both_routes(client: openai.OpenAI) -> None:
    found = complete(client, prompt=TEXT, max_tokens=1, prompt_logprobs=2)
    shapes = [found.choices[0].prompt_logprobs]
    chat = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=1, n=2, extra_body={"prompt_logprobs": 2}
    )
    shapes.append(chat.prompt_logprobs)  # type: ignore[attr-defined]
    for shape, usage in zip(shapes, (found.usage, chat.usage), strict=True):
        assert usage is not None
        assert len(shape) == usage.prompt_tokens
        assert shape[0] is None
        for entry in shape[1:]:
            assert 2 <= len(entry) <= 3
            ranks = [one["rank"] for one in entry.values()]
            assert sorted(ranks[1:]) == [rank for rank in (1, 2) if rank != ranks[0]]
            assert all(one["logprob"] <= 0 and isinstance(one["decoded_token"], str) for one in entry.values())
    with pytest.raises(openai.BadRequestError, match="leave out stream"):
        complete(client, prompt=TEXT, prompt_logprobs=1, stream=True)


def test_bad_words_do_not_come_with_or_without_a_space_before_them(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": f"{TEXT}\n\nWho is the mayor of Quillmere?"}]

    def answer(**extra: Any) -> str:
        found = client.chat.completions.create(
            model="demo", messages=question, temperature=0, max_tokens=30, extra_body=extra
        )
        return found.choices[0].message.content or ""

    assert "Torvane" in answer()
    assert "Torvane" not in answer(bad_words=["Torvane"])
    with pytest.raises(openai.BadRequestError, match="bad_words"):
        answer(bad_words=[""])


def test_only_allowed_tokens_come(live: Live, client: openai.OpenAI) -> None:
    tokens = client.post("/../tokenize", body={"prompt": "yes no", "add_special_tokens": False}, cast_to=object)[
        "tokens"
    ]  # type: ignore[index]
    found = complete(client, prompt=TEXT, max_tokens=5, allowed_token_ids=tokens)
    assert set(found.choices[0].text.replace(" ", "")) <= set("yesno")
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        complete(client, prompt=TEXT, allowed_token_ids=[10**6])


def test_a_single_request_of_one_key_does_not_wait_for_all_of_another() -> None:
    keys = ["--api-key", "key-of-many", "--api-key", "key-of-one"]
    with started(*keys, "--max-num-seqs", "1") as server, ThreadPoolExecutor(10) as pool:
        enough, answered = Event(), list[None]()

        def ask(made: openai.OpenAI) -> None:
            made.completions.create(model="demo", prompt=TEXT, max_tokens=60, extra_body={"ignore_eos": True})

        def keep_asking() -> None:
            with server.client("key-of-many") as made:
                while not enough.is_set():
                    ask(made)
                    answered.append(None)

        many = [pool.submit(keep_asking) for _ in range(10)]
        headers = {"Authorization": "Bearer key-of-one"}
        with server.client("key-of-one") as made:
            while httpx.get(server.url + "/load", headers=headers).json()["server_load"] < 10:
                assert not any(one.done() for one in many)
            before = len(answered)
            ask(made)
            meanwhile = len(answered) - before
        enough.set()
        for one in many:
            one.result()
    assert meanwhile < 9
