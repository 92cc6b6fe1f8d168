"""Ollama's own client against a live server; answers are those of OpenAI's route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.server.conftest import Live, started
from tests.server.test_openai import ASK_TIMER, MESSAGES, TOOLS
from twofold.errors import ShuttingDown
from twofold.server.ollama import lines

GREEDY: Any = {"temperature": 0, "num_predict": 60}
CHAT: Any = {"model": "demo", "messages": MESSAGES, "options": GREEDY}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
DURATIONS = ("total_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture(scope="module")
def llama(live: Live) -> Iterator[ollama.Client]:
    with ollama.Client(host=live.url, timeout=60) as made:
        yield made


def chat(client: openai.OpenAI, messages: Any = MESSAGES, **asked: Any) -> Any:
    return client.chat.completions.create(**{"model": "demo", "messages": messages, "temperature": 0, **asked})


def test_a_chat_is_what_openais_route_answers(llama: ollama.Client, client: openai.OpenAI) -> None:
    for options, extra in (
        (GREEDY, {"max_tokens": 60}),
        ({"temperature": 1.2, "seed": 3, "top_p": 0.9, "min_p": 0.05, "num_predict": 9, "stop": ["zz"]},
         {"temperature": 1.2, "seed": 3, "top_p": 0.9, "max_tokens": 9, "extra_body": {"min_p": 0.05}}),
        ({"temperature": 0, "repeat_penalty": 1.5, "frequency_penalty": 0.5, "repeat_last_n": -1},
         {"temperature": 0, "frequency_penalty": 0.5, "extra_body": {"repetition_penalty": 1.5}}),
    ):  # fmt: skip
        found = llama.chat(**{**CHAT, "options": options})
        expected: Any = chat(client, **extra)
        assert (found.message.role, found.message.content) == ("assistant", expected.choices[0].message.content)
        assert (found.done, found.done_reason) == (True, expected.choices[0].finish_reason)
        assert found.prompt_eval_count == expected.usage.prompt_tokens
        assert found.eval_count == expected.usage.completion_tokens
        assert all(found[name] > 0 for name in DURATIONS)
        assert sum(found[name] for name in DURATIONS[1:]) <= found.total_duration


def test_a_stream_is_lines_of_json_and_the_default(llama: ollama.Client, live: Live) -> None:
    whole = llama.chat(**CHAT)
    parts = list(llama.chat(**CHAT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", whole.eval_count)
    raw = httpx.post(live.url + "/api/chat", json=CHAT)
    assert raw.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in raw.text.splitlines()]
    assert len(lines) > 2
    assert set(lines[0]) == {"model", "created_at", "message", "done"}
    assert datetime.fromisoformat(lines[0]["created_at"]).tzinfo is not None
    assert set(lines[-1]) - set(lines[0]) == {
        "done_reason",
        *DURATIONS,
        "load_duration",
        "prompt_eval_count",
        "eval_count",
    }


def test_a_prompt_is_a_message_and_with_raw_the_text_itself(
    llama: ollama.Client, client: openai.OpenAI, live: Live
) -> None:
    text = MESSAGES[0]["content"]
    for system in ("", "Be brief."):
        first = [{"role": "system", "content": system}] if system else []
        expected = chat(client, first + MESSAGES).choices[0].message.content
        assert llama.generate("demo", text, system=system, options=GREEDY).response == expected
        parts = list(llama.generate("demo:latest", text, system=system, options=GREEDY, stream=True))
        assert "".join(part.response or "" for part in parts) == expected
        assert parts[-1].done_reason == "stop"
        ids = httpx.post(live.url + "/tokenize", json={"messages": first + MESSAGES}).json()["tokens"]
        written = httpx.post(live.url + "/detokenize", json={"tokens": ids}).json()["prompt"]
        assert llama.generate("demo", written, raw=True, options=GREEDY).response == expected


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_read(llama: ollama.Client, client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "demo", "messages": ASK_TIMER, "tools": TOOLS, "options": GREEDY}
    parts = list(llama.chat(**asked, stream=True)) if stream else [llama.chat(**asked)]
    calls = [call for part in parts for call in part.message.tool_calls or []]
    [expected] = chat(client, ASK_TIMER, tools=TOOLS).choices[0].message.tool_calls
    [call] = calls
    assert call.function.name == expected.function.name
    assert call.function.arguments == json.loads(expected.function.arguments) == {"minutes": 2871}
    assert parts[-1].done_reason == "stop"
    message = next(part.message for part in parts if part.message.tool_calls)
    answer = {"role": "tool", "tool_name": "set_timer", "content": "It rings."}
    again = llama.chat(**{**asked, "messages": [*ASK_TIMER, message, answer]})
    plain = {"role": "assistant", "content": "", "tool_calls": [expected.model_dump()]}
    told = {"role": "tool", "tool_call_id": expected.id, "content": "It rings."}
    both = chat(client, [*ASK_TIMER, plain, told], tools=TOOLS, max_tokens=60).choices[0].message
    assert again.message.content == (both.content or "")


def test_a_form_holds(llama: ollama.Client, client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "age", "schema": SCHEMA}}
    expected = chat(client, response_format=form).choices[0].message.content
    assert llama.chat(**CHAT, format=SCHEMA).message.content == expected
    assert llama.generate("demo", MESSAGES[0]["content"], format=SCHEMA, options=GREEDY).response == expected
    free = llama.chat(**CHAT, format="json").message.content or ""
    expected = chat(client, response_format={"type": "json_object"}, max_tokens=60).choices[0].message.content
    assert free == expected


def test_logprobs_belong_to_the_text(llama: ollama.Client) -> None:
    found = llama.chat(**CHAT, logprobs=True, top_logprobs=2)
    assert "".join(entry.token for entry in found.logprobs or []) == found.message.content
    parts = list(llama.chat(**CHAT, logprobs=True, stream=True))
    assert len([entry for part in parts for entry in part.logprobs or []]) == len(found.logprobs or [])


def test_an_answer_goes_on_with_a_last_message_of_the_assistant(llama: ollama.Client, client: openai.OpenAI) -> None:
    begun: Any = [*MESSAGES, {"role": "assistant", "content": "It is 7"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    expected = chat(client, begun, extra_body=extra).choices[0].message.content
    assert llama.chat(**{**CHAT, "messages": begun}).message.content == expected


def test_num_ctx_and_num_predict_are_limits(llama: ollama.Client) -> None:
    full = llama.chat(**CHAT)
    prompt = full.prompt_eval_count or 0
    for options in ({"num_ctx": prompt + 2}, {"num_ctx": prompt + 2, "num_predict": 50}, {"num_predict": 2}):
        cut = llama.chat(**{**CHAT, "options": {"temperature": 0, **options}})
        assert (cut.eval_count, cut.done_reason) == (2, "length")
    for options in ({"num_predict": -1, "num_thread": 1}, {"num_predict": -2, "num_gpu": 0}, {"num_predict": 4096}):
        assert llama.chat(**{**CHAT, "options": {"temperature": 0, **options}}).message == full.message
    with pytest.raises(ollama.ResponseError, match=rf"{prompt} tokens and num_ctx is {prompt}"):
        llama.chat(**{**CHAT, "options": {"num_ctx": prompt}})


def test_nothing_asked_loads_and_says_so(llama: ollama.Client) -> None:
    loaded = llama.generate("demo", keep_alive="5m")
    assert (loaded.response, loaded.done, loaded.done_reason) == ("", True, "load")
    talk = llama.chat("demo", [], keep_alive=-1)
    assert (talk.message.content, talk.done, talk.done_reason) == ("", True, "load")
    assert [part.done_reason for part in llama.chat("demo", stream=True)] == ["load"]
    for asked in ({}, {"prompt": "Hello"}):
        for value in (0, "0", "0s"):
            with pytest.raises(ollama.ResponseError, match="keep_alive"):
                llama.generate("demo", **asked, keep_alive=value)


def test_models_are_listed_and_shown(llama: ollama.Client, live: Live) -> None:
    [listed] = llama.list().models
    [running] = llama.ps().models
    for entry in (listed, running):
        assert (entry.model, entry.details.family if entry.details else "") == ("demo:latest", "llama4")
        assert entry.size
        assert len(entry.digest or "") == 64
    assert running.context_length == 2048
    for name in ("demo", "demo:latest"):
        shown = llama.show(name)
        info = shown.modelinfo or {}
        assert info["general.architecture"] == "llama4"
        assert info["general.parameter_count"] > 10**6
        assert shown.capabilities == ["completion", "tools"]
        assert "message" in (shown.template or "")
    with pytest.raises(ollama.ResponseError, match="'other' is not served"):
        llama.show("other")
    assert httpx.get(live.url + "/api/version").json().keys() == {"version"}
    assert httpx.head(live.url + "/").status_code == 200


def test_an_asynchronous_client_gets_the_same(llama: ollama.Client, live: Live) -> None:
    async def main() -> str:
        async with ollama.AsyncClient(host=live.url) as made:
            return "".join([part.message.content or "" async for part in await made.chat(**CHAT, stream=True)])

    assert asyncio.run(main()) == llama.chat(**CHAT).message.content


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"mystery": 1}, "'mystery'"),
    ("chat", {"options": {"mirostat": 1}}, "'options.mirostat'"),
    ("chat", {"options": {"num_ctx": 4096}}, "options.num_ctx is 4096; this server holds 2048"),
    ("chat", {"options": {"num_gpu": 99}}, "options.num_gpu"),
    ("chat", {"options": {"num_thread": 77}}, "options.num_thread"),
    ("chat", {"options": {"temperature": -1}}, "options.temperature is -1"),
    ("chat", {"options": {"repeat_penalty": 0}}, "options.repeat_penalty is 0"),
    ("chat", {"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
    ("chat", {"options": {"stop": ["a"] * 20}}, "options.stop"),
    ("chat", {"format": "yaml"}, "format is 'yaml'"),
    ("chat", {"format": {"type": "cat"}}, "format: the form"),
    ("chat", {"format": "json", "tools": TOOLS}, "format"),
    ("chat", {"think": True}, "think"),
    ("chat", {"truncate": True}, "truncate"),
    ("chat", {"keep_alive": "soon"}, "keep_alive is 'soon'"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aaaa"]}]}, "messages[0].images"),
    ("chat", {"messages": [{"role": "king", "content": "x"}]}, "role 'king'"),
    ("chat", {"messages": [{"role": "user", "content": "word " * 3000}]}, "2048"),
    ("generate", {"suffix": "end"}, "suffix"),
    ("generate", {"template": "{{ .Prompt }}"}, "template"),
    ("generate", {"context": [1, 2]}, "context"),
    ("generate", {"images": ["aaaa"]}, "images"),
    ("generate", {"raw": True, "system": "Be brief."}, "system"),
    ("generate", {"width": 64}, "'width'"),
]


@pytest.mark.parametrize(("route", "more", "words"), ERRORS, ids=[str(index) for index in range(len(ERRORS))])
def test_what_cannot_be_honoured_is_a_400_that_names_it(
    live: Live, route: str, more: dict[str, Any], words: str
) -> None:
    asked = {"messages": MESSAGES} if route == "chat" else {"prompt": "Hello"}
    answer = httpx.post(f"{live.url}/api/{route}", json={"model": "demo", **asked, **more})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert words in answer.json()["error"]


def test_what_fails_in_a_stream_is_a_line_of_its_own() -> None:
    async def values() -> AsyncIterator[Any]:
        yield {"done": False}
        raise ShuttingDown("the answer ends here")

    async def main() -> list[bytes]:
        return [line async for line in lines(values(), "id")]

    assert asyncio.run(main()) == [b'{"done":false}\n', b'{"error":"the answer ends here"}\n']


def test_other_failures_have_ollamas_shape_too(llama: ollama.Client, live: Live) -> None:
    with pytest.raises(ollama.ResponseError, match="'other' is not served here") as missing:
        llama.chat("other", MESSAGES)
    assert missing.value.status_code == 404
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=r"this engine holds|num_ctx is 2048"):
            list(llama.generate("demo", "word " * 3000, stream=stream))  # type: ignore[call-overload]
    unknown = httpx.post(live.url + "/api/pull", json={"model": "demo"})
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
    with (
        started("--api-key", "key-of-mine") as server,
        ollama.Client(host=server.url, headers={"Authorization": "Bearer key-of-mine"}) as mine,
        ollama.Client(host=server.url) as other,
    ):
        assert mine.chat(**CHAT).done
        with pytest.raises(ollama.ResponseError, match="API key") as refused:
            other.chat(**CHAT)
        assert refused.value.status_code == 401


def test_curl_needs_no_content_type_and_a_page_of_a_browser_does(live: Live) -> None:
    data = json.dumps({**CHAT, "stream": False})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(live.url + "/api/chat", content=data, headers=form, timeout=60).json()["done"] is True
    for more in (
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Referer": "http://evil.example"},
    ):
        answer = httpx.post(live.url + "/api/chat", content=data, headers={**form, **more})
        assert (answer.status_code, list(answer.json())) == (415, ["error"])
