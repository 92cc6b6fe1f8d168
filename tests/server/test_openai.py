"""OpenAI's own client against a live server."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.server.conftest import Live
from twofold import LLM, SamplingParams

PASSAGE = "The mayor of Quillmere is Torvane. Quillmere has 7215 inhabitants."
MESSAGES: Any = [{"role": "user", "content": f"{PASSAGE}\n\nHow many people live in Quillmere?"}]


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "set_timer",
            "description": "Start a timer",
            "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
        },
    }
]
ASK_TIMER: Any = [{"role": "user", "content": "Set a timer for 2871 minutes."}]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="w8a8", threads=1)


def test_a_chat_answer_is_the_one_the_library_gives(client: openai.OpenAI, llm: LLM) -> None:
    for params in ({"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}):
        found: Any = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=40, **params)  # type: ignore[call-overload]
        expected = llm.chat(MESSAGES, SamplingParams(max_tokens=40, **params))
        assert found.choices[0].message.content == expected.text
        assert found.choices[0].finish_reason == expected.finish
        assert found.usage.prompt_tokens == expected.prompt_tokens
        assert found.usage.completion_tokens == len(expected.tokens)
        assert found.usage.total_tokens == expected.prompt_tokens + len(expected.tokens)
        assert found.object == "chat.completion"
        assert found.id.startswith("chatcmpl-")


def test_a_stream_has_the_chunks_the_specification_asks_for(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-2].choices[0].delta.content is None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_continuous_usage_tells_in_every_chunk_how_far_the_answer_is(client: openai.OpenAI, route: str) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    more: Any = {"model": "demo", "temperature": 0, "max_tokens": 9, "stream": True, "stream_options": options}
    if route == "chat":
        chunks: list[Any] = list(client.chat.completions.create(messages=MESSAGES, **more))
    else:
        chunks = list(client.completions.create(prompt="def f(", **more))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == 9
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {chunks[-1].usage.prompt_tokens}


def test_continuous_usage_needs_usage(client: openai.OpenAI) -> None:
    options: Any = {"continuous_usage_stats": True}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=MESSAGES, stream=True, stream_options=options)
    assert caught.value.param == "stream_options.continuous_usage_stats"


def test_several_choices_have_seeds_of_their_own_and_can_be_repeated(client: openai.OpenAI) -> None:
    def texts(n: int, seed: int) -> list[str | None]:
        found = client.chat.completions.create(
            model="demo", messages=MESSAGES, n=n, seed=seed, temperature=2, max_tokens=9
        )
        assert [choice.index for choice in found.choices] == list(range(n))
        return [choice.message.content for choice in found.choices]

    three = texts(3, seed=1)
    assert len(set(three)) == 3
    assert three == [texts(1, seed=seed)[0] for seed in (1, 2, 3)]


def test_a_stop_string_ends_the_answer_and_is_left_out(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0, stop=[" 72", "zz"])
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("It is", "stop")
    kept = client.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, stop=" 72", extra_body={"include_stop_str_in_output": True}
    )
    assert kept.choices[0].message.content == "It is 72"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_belong_to_the_tokens_of_the_text(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0, "logprobs": True, "stream": stream}
    for top in (None, 3):
        found: Any = client.chat.completions.create(**asked, **({} if top is None else {"top_logprobs": top}))
        if stream:
            chunks = [chunk.choices[0] for chunk in found]
            content = [entry for choice in chunks if choice.logprobs for entry in choice.logprobs.content]
            text = "".join(choice.delta.content or "" for choice in chunks)
        else:
            content, text = found.choices[0].logprobs.content, found.choices[0].message.content
        assert b"".join(bytes(entry.bytes) for entry in content).decode() == text
        for entry in content:
            assert entry.logprob <= 0
            assert len(entry.top_logprobs) == (top or 0)
            if top:
                assert entry.top_logprobs[0].token == entry.token  # greedy takes the best


def test_a_bias_forbids_a_token(client: openai.OpenAI, llm: LLM) -> None:
    first = llm.tokenizer.encode("It")[0]
    found = client.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, logit_bias={str(first): -100}
    )
    assert not (found.choices[0].message.content or "").startswith("It")


def test_min_tokens_bars_the_end(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="demo", messages=MESSAGES, temperature=0, max_tokens=30, extra_body={"min_tokens": 25}
    )
    assert found.usage is not None
    assert found.usage.completion_tokens >= 25


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "set_timer"}}])
def test_tool_calls_come_in_openais_shape(client: openai.OpenAI, stream: bool, choice: Any) -> None:
    found: Any = client.chat.completions.create(
        model="demo", messages=ASK_TIMER, tools=TOOLS, tool_choice=choice, temperature=0, stream=stream
    )
    if not stream:
        assert found.choices[0].finish_reason == "tool_calls"
        assert found.choices[0].message.content is None
        calls = [(call.id, call.function.name, call.function.arguments) for call in found.choices[0].message.tool_calls]
    else:
        chunks = [chunk.choices[0] for chunk in found]
        assert chunks[-1].finish_reason == "tool_calls"
        fragments = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
        assert {call.index for call in fragments} == {0}
        assert all(call.id is None and call.function.name is None for call in fragments[1:])
        text = "".join(call.function.arguments for call in fragments)
        calls = [(fragments[0].id, fragments[0].function.name, text)]
    [(identity, name, arguments)] = calls
    assert identity.startswith("call_")
    assert name == "set_timer"
    assert json.loads(arguments) == {"minutes": 2871}


def test_a_conversation_with_a_tools_answer_goes_on(client: openai.OpenAI) -> None:
    called: Any = client.chat.completions.create(
        model="demo", messages=ASK_TIMER, tools=TOOLS, tool_choice="required", temperature=0
    )
    message = called.choices[0].message.model_dump(exclude_none=True)
    answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    found = client.chat.completions.create(
        model="demo", messages=[*ASK_TIMER, message, answer], tools=TOOLS, temperature=0, max_tokens=20
    )
    assert found.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_without_tools_json_stays_text(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="demo", messages=ASK_TIMER, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40
    )
    assert found.choices[0].message.tool_calls is None


def test_completions_take_texts_and_ids(client: openai.OpenAI, llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8)
    expected = [item.text for item in llm.generate(["def f(", "class A"], params)]
    ids = [llm.encode("def f("), llm.encode("class A")]
    for prompt in (["def f(", "class A"], ids):
        found = client.completions.create(model="demo", prompt=prompt, temperature=0, max_tokens=8, logprobs=2)  # type: ignore[arg-type]
        assert [choice.text for choice in found.choices] == expected
        for choice in found.choices:
            shape = choice.logprobs
            assert shape is not None
            assert "".join(shape.tokens or []) == choice.text
            assert [len(best) for best in shape.top_logprobs or []] == [2] * len(shape.tokens or [])
    streamed = client.completions.create(model="demo", prompt="def f(", temperature=0, max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected[0]


def test_json_schema_regex_choice_and_grammar_hold_whatever_the_model_wants(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 7, "maximum": 9},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    for seed in range(3):
        found = client.chat.completions.create(
            model="demo", messages=MESSAGES, response_format=form, temperature=1.5, seed=seed, n=2, max_tokens=200
        )
        for choice in found.choices:
            value = json.loads(choice.message.content or "")
            assert set(value) == {"name", "age"}
            assert 7 <= value["age"] <= 9
            assert choice.finish_reason == "stop"
    for extra, allowed in (
        ({"structured_outputs": {"choice": ["red", "green"]}}, ("red", "green")),
        ({"guided_regex": "(cat|dog)s"}, ("cats", "dogs")),
        ({"structured_outputs": {"grammar": 'start: "a" "b"'}}, ("ab",)),
    ):
        found = client.chat.completions.create(model="demo", messages=MESSAGES, extra_body=extra)
        assert found.choices[0].message.content in allowed


ERRORS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"extra_body": {"mystery": 1}}, "mystery", "mystery"),
    ({"extra_body": {"best_of": 2}}, "best_of", "best_of"),
    ({"temperature": -1}, "temperature", "at least 0"),
    ({"temperature": "hot"}, "temperature", "float"),
    ({"n": 99}, "n", "at most 16"),
    ({"stop": ["a"] * 20}, "stop", "at most 16"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logit_bias": {"cat": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {"999999": 1}}, None, "outside the vocabulary"),
    ({"max_tokens": 0}, "max_tokens", ">= 1"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "differ"),
    ({"messages": []}, "messages", "at least one"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages", "message 0"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "messages",
        "image_url",
    ),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice", "not in tools"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "schema",
    ),
    ({"extra_body": {"guided_regex": "("}}, "response_format", "cannot be used"),
    ({"response_format": {"type": "json_object"}, "tools": TOOLS}, "tool_choice", "none"),
]


@pytest.mark.parametrize(("asked", "param", "words"), ERRORS, ids=[str(index) for index in range(len(ERRORS))])
def test_what_is_wrong_is_a_400_that_names_the_field(
    client: openai.OpenAI, asked: dict[str, Any], param: str | None, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "demo", "messages": MESSAGES, **asked})
    body: Any = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"
    assert body["param"] == param
    assert words in body["message"]


def test_a_prompt_that_is_too_long_is_told_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=5000)
    body: Any = caught.value.body
    assert body["code"] == "context_length_exceeded"
    assert "5000" in body["message"]
    assert "2048" in body["message"]


def test_another_model_is_a_404(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list().data] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert caught.value.body["code"] == "model_not_found"  # type: ignore[index]


def test_what_a_prompt_has_in_common_with_an_earlier_one_is_read_once(live: Live, client: openai.OpenAI) -> None:
    passage = " ".join(f"Item {number} costs {number * 7} coins." for number in range(60))
    asked: Any = {"model": "demo", "temperature": 0, "max_tokens": 8}
    first, second = [
        client.chat.completions.create(
            messages=[{"role": "system", "content": passage}, {"role": "user", "content": question}], **asked
        ).usage
        for question in ("What does item 4 cost?", "What does item 5 cost?")
    ]
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens > second.prompt_tokens - 64
    assert live.metric("vllm:prefix_cache_hits_total") >= second.prompt_tokens_details.cached_tokens


def test_metrics_count_what_was_served(live: Live, client: openai.OpenAI) -> None:
    names = ("vllm:request_success_total", "vllm:time_to_first_token_seconds_count", "vllm:request_params_n_count")
    before = [live.metric(name) for name in names]
    client.chat.completions.create(model="demo", messages=MESSAGES, temperature=0)
    assert [live.metric(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1]
    assert live.metric("vllm:num_requests_running") == 0
    assert live.metric("vllm:kv_cache_usage_perc") == 0
