"""Every field of the installed openai package is decided about: honoured, of no effect, or refused with a reason."""

from __future__ import annotations

import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import ChatCompletionStreamOptionsParam
from openai.types.chat import completion_create_params as chat_create_params

from tests.server.conftest import COMMAND, Live, started

HONOURED = {
    *("messages", "model", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "n"),
    *("parallel_tool_calls", "presence_penalty", "response_format", "seed", "stop", "stream", "stream_options"),
    *("temperature", "tool_choice", "tools", "top_logprobs", "top_p"),
}
"""Whose effect other tests show."""
NO_EFFECT: dict[str, Any] = {
    "metadata": {"team": "a"},
    "modalities": ["text"],
    "prompt_cache_key": "a",
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "safety_identifier": "a",
    "service_tier": "auto",
    "store": False,
    "user": "a",
    "verbosity": "medium",
}
"""Values that are taken: names and hints, and what is so anyway."""
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "function_call": "auto",
    "functions": [{"name": "f", "parameters": {}}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "x"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
}
COMPLETION_HONOURED = {
    *("prompt", "model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed"),
    *("stop", "stream", "stream_options", "temperature", "top_p", "echo"),
}
COMPLETION_NO_EFFECT: dict[str, Any] = {"user": "a", "best_of": 1, "suffix": ""}
COMPLETION_REFUSED: dict[str, Any] = {"best_of": 2, "suffix": "x"}

ASKED: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 4}
COMPLETED: Any = {"model": "demo", "prompt": "def f(", "temperature": 0, "max_tokens": 4}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def post(live: Live, path: str, body: Any, status: int = 200) -> Any:
    answer = httpx.post(live.url + path, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_every_field_of_the_installed_client_is_decided_about() -> None:
    chat = set(typing.get_type_hints(chat_create_params.CompletionCreateParamsStreaming))
    assert chat == HONOURED | set(NO_EFFECT) | set(REFUSED)
    completion = set(typing.get_type_hints(completion_create_params.CompletionCreateParamsStreaming))
    assert completion == COMPLETION_HONOURED | set(COMPLETION_NO_EFFECT) | set(COMPLETION_REFUSED)
    assert set(typing.get_type_hints(ChatCompletionStreamOptionsParam)) == {"include_usage", "include_obfuscation"}


def test_fields_of_no_effect_change_nothing(live: Live) -> None:
    plain = post(live, CHAT, ASKED)["choices"]
    assert post(live, CHAT, {**ASKED, **NO_EFFECT})["choices"] == plain
    assert post(live, CHAT, {**ASKED, **dict.fromkeys({*NO_EFFECT, *REFUSED})})["choices"] == plain  # null is absent
    text = post(live, COMPLETIONS, COMPLETED)["choices"]
    assert post(live, COMPLETIONS, {**COMPLETED, **COMPLETION_NO_EFFECT})["choices"] == text


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *((CHAT, field, value) for field, value in REFUSED.items()),
        *((COMPLETIONS, field, value) for field, value in COMPLETION_REFUSED.items()),
    ],
)
def test_a_refused_field_is_named_with_a_reason(live: Live, path: str, field: str, value: Any) -> None:
    error = post(live, path, {**(ASKED if path == CHAT else COMPLETED), field: value}, 400)["error"]
    assert error["param"] == field
    assert error["message"].startswith(f"{field} is not supported: ")
    assert "Use" in error["message"] or "eave it out" in error["message"] or "leave it out" in error["message"]


def test_padding_of_chunks_is_refused(live: Live) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    assert httpx.post(live.url + CHAT, json={**ASKED, "stream": True, "stream_options": options}).status_code == 200
    options["include_obfuscation"] = True
    error = post(live, CHAT, {**ASKED, "stream": True, "stream_options": options}, 400)["error"]
    assert error["param"] == "stream_options.include_obfuscation"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_id": "a"}},
    ],
)
def test_parts_that_are_no_text_are_refused_and_nothing_is_fetched(live: Live, part: Any) -> None:
    asked = {**ASKED, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]}
    error = post(live, CHAT, asked, 400)["error"]
    assert error["param"] == "messages"
    assert part["type"] in error["message"]
    assert "no image, audio, file or URL is read" in error["message"]


def test_a_last_message_is_continued(live: Live, client: openai.OpenAI) -> None:
    question = {"role": "user", "content": "Torvane is the mayor of Quillmere.\n\nWho is the mayor of Quillmere?"}
    whole = post(live, CHAT, {**ASKED, "messages": [question], "max_tokens": 30})["choices"][0]["message"]["content"]
    begun: list[Any] = [question, {"role": "assistant", "content": whole[:9]}]
    found = client.chat.completions.create(
        model="demo", messages=begun, temperature=0, max_tokens=30, extra_body={"continue_final_message": True}
    )
    assert found.choices[0].message.content
    assert not found.choices[0].message.content.startswith(whole[:9])
    count = post(live, "/tokenize", {"messages": begun, "continue_final_message": True})["count"]
    assert found.usage is not None
    assert found.usage.prompt_tokens == count
    contradiction = {"messages": begun, "add_generation_prompt": True}
    for more, field in (({"messages": [question]}, "messages"), (contradiction, "continue_final_message")):
        assert post(live, CHAT, {**ASKED, "continue_final_message": True, **more}, 400)["error"]["param"] == field


def test_a_prompt_is_cut_only_where_the_client_asks_for_it(live: Live) -> None:
    words = "one two three four five " * 600
    post(live, COMPLETIONS, {**COMPLETED, "prompt": words}, 400)
    found = post(live, COMPLETIONS, {**COMPLETED, "prompt": words, "truncate_prompt_tokens": 20})
    assert found["usage"]["prompt_tokens"] == 20
    tokens = post(live, "/tokenize", {"prompt": words})["tokens"][-20:]
    assert post(live, COMPLETIONS, {**COMPLETED, "prompt": tokens})["choices"] == found["choices"]
    cut = post(live, CHAT, {**ASKED, "truncate_prompt_tokens": 3})
    assert cut["usage"]["prompt_tokens"] == 3


def test_the_begin_token_is_left_out_where_asked(live: Live) -> None:
    counts = [
        post(live, COMPLETIONS, {**COMPLETED, "add_special_tokens": added})["usage"]["prompt_tokens"]
        for added in (True, False)
    ]
    assert counts[0] == counts[1] + 1


def test_a_request_id_becomes_the_answers(live: Live) -> None:
    assert post(live, CHAT, {**ASKED, "request_id": "mine-1"})["id"] == "chatcmpl-mine-1"
    assert post(live, COMPLETIONS, {**COMPLETED, "request_id": "mine-1"})["id"] == "cmpl-mine-1"
    assert post(live, CHAT, {**ASKED, "request_id": "a b"}, 400)["error"]["param"] == "request_id"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("generation")
    (folder / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}!{% endfor %}")
    (folder / "generation_config.json").write_text('{"temperature": 0.0, "max_new_tokens": 5}')
    with started(
        *("--chat_template", str(folder / "chat.jinja"), "--trust-request-chat-template"),
        *("--generation-config", str(folder), "--override-generation-config", '{"max_new_tokens": 3}'),
    ) as server:
        yield server


def test_a_request_brings_a_template_only_where_it_is_trusted(live: Live, trusting: Live) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}], "chat_template": "{{ messages[0].content }}?"}
    error = post(live, CHAT, asked, 400)["error"]
    assert (error["param"], "--trust-request-chat-template" in error["message"]) == ("chat_template", True)
    plain = post(trusting, "/tokenize", {"prompt": "Hello?"})["tokens"]
    assert post(trusting, "/tokenize", asked)["tokens"] == plain
    assert post(trusting, CHAT, asked)["usage"]["prompt_tokens"] == len(plain)
    for broken in ("{% for %}", "{{ 1 / 0 }}", "{% for i in range(10**9) %}{% endfor %}", "(" * 10_000):
        post(trusting, CHAT, {**asked, "chat_template": "{{ " + broken if broken[0] == "(" else broken}, 400)


def test_flags_choose_the_template_and_the_defaults(live: Live, trusting: Live) -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    assert post(trusting, "/tokenize", asked)["tokens"] == post(trusting, "/tokenize", {"prompt": "Hello!"})["tokens"]
    first, second = (post(trusting, CHAT, asked) for _ in range(2))
    assert first["choices"] == second["choices"]  # greedy
    assert first["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--override-generation-config", "{"), "no JSON"),
        (("--override-generation-config", '{"top_z": 1}'), "top_z"),
        (("--override-generation-config", '{"temperature": -1}'), "temperature"),
        (("--generation-config", "/nowhere"), "nowhere"),
        (("--ssl-certfile", __file__), "--ssl-keyfile"),
    ],
)
def test_what_is_wrong_in_a_flag_is_said_at_once(options: tuple[str, ...], words: str) -> None:
    ended = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
