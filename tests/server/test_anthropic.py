"""Anthropic's own client against a live server; answers are those of OpenAI's route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.server.conftest import Live, started
from tests.server.test_openai import ASK_TIMER, MESSAGES, TOOLS
from twofold.errors import ShuttingDown
from twofold.server.anthropic import lines

GREEDY = {"temperature": 0}
"""Newer clients have no arguments for sampling, the API has."""
ASKED: Any = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "extra_body": GREEDY}
FUNCTION = TOOLS[0]["function"]
TIMER = {"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}
ASKED_TIMER: Any = {**ASKED, "messages": ASK_TIMER, "tools": [TIMER]}
RESULT = {"type": "tool_result", "content": [{"type": "text", "text": "It"}, {"type": "text", "text": " rings"}]}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.fixture(scope="module")
def messenger(live: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def chat(client: openai.OpenAI, **asked: Any) -> Any:
    found = client.chat.completions.create(**{"model": "demo", "max_tokens": 60, "temperature": 0, **asked})
    return found.choices[0]


def test_a_message_is_what_openais_route_answers(messenger: anthropic.Anthropic, client: openai.OpenAI) -> None:
    for extra, system in (
        (GREEDY, None),
        ({"temperature": 1.0, "top_p": 0.5, "top_k": 1}, None),
        (GREEDY, "Be brief."),
    ):
        found = messenger.messages.create(**{**ASKED, "extra_body": extra}, **({"system": system} if system else {}))
        first = [{"role": "system", "content": system}] if system else []
        expected = chat(client, messages=first + MESSAGES, extra_body=extra)
        assert [block.model_dump()["text"] for block in found.content] == [expected.message.content]
        assert (found.type, found.role, found.model, found.stop_reason) == ("message", "assistant", "demo", "end_turn")
        assert found.stop_sequence is None
        assert found.id.startswith("msg_")


def test_texts_may_come_as_blocks_marked_for_the_cache(messenger: anthropic.Anthropic) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    whole = messenger.messages.create(**ASKED, system="Be brief. Be kind.")
    halves: Any = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": " Be kind.", **mark}]
    content = [{"type": "text", "text": MESSAGES[0]["content"], **mark}]
    found = messenger.messages.create(**{**ASKED, "messages": [{"role": "user", "content": content}]}, system=halves)
    assert found.content == whole.content
    read = found.usage.cache_read_input_tokens or 0
    assert read > 0
    assert found.usage.input_tokens + read == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert found.usage.cache_creation_input_tokens == 0
    assert found.usage.output_tokens == whole.usage.output_tokens


def test_a_stream_has_its_events_in_order(messenger: anthropic.Anthropic, live: Live) -> None:
    whole = messenger.messages.create(**ASKED)
    events = list(messenger.messages.create(**ASKED, stream=True))
    assert [event.type for event in events] == [
        "message_start", "content_block_start", *["content_block_delta"] * (len(events) - 5), "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    with messenger.messages.stream(**ASKED) as stream:
        final: Any = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    raw = httpx.post(
        live.url + "/v1/messages", json={"model": "demo", "messages": MESSAGES, "max_tokens": 9, "stream": True}
    )
    assert raw.headers["content-type"].startswith("text/event-stream")
    for text in raw.text.strip().split("\n\n"):
        name, data = text.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named_and_a_cut_answer_told(messenger: anthropic.Anthropic, stream: bool) -> None:
    def ask(**more: Any) -> Any:
        if not stream:
            return messenger.messages.create(**{**ASKED, **more})
        with messenger.messages.stream(**{**ASKED, **more}) as events:
            return events.get_final_message()

    found = ask(stop_sequences=["zz", " 72"])
    assert (found.stop_reason, found.stop_sequence, found.content[0].text) == ("stop_sequence", " 72", "It is")
    cut = ask(max_tokens=2)
    assert (cut.stop_reason, cut.stop_sequence, cut.usage.output_tokens) == ("max_tokens", None, 2)


@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "set_timer"}])
def test_tools_are_called_as_through_openais_route(
    messenger: anthropic.Anthropic, client: openai.OpenAI, choice: Any
) -> None:
    asked = {**ASKED_TIMER, **({"tool_choice": choice} if choice else {})}
    called = chat(client, messages=ASK_TIMER, tools=TOOLS, tool_choice="auto").message.tool_calls[0]
    whole = messenger.messages.create(**asked)
    with messenger.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert "input_json" in kinds
    for found in (whole, streamed):
        assert len(found.content) == 1
        block: Any = found.content[0]
        assert (block.type, block.name) == ("tool_use", called.function.name)
        assert block.input == json.loads(called.function.arguments) == {"minutes": 2871}
        assert block.id.startswith("toolu_")
        assert found.stop_reason == "tool_use"


def test_what_a_tool_gave_goes_back_to_the_model(messenger: anthropic.Anthropic, client: openai.OpenAI) -> None:
    first = messenger.messages.create(**ASKED_TIMER)
    use: Any = first.content[0]
    turns = [*ASK_TIMER, {"role": "assistant", "content": first.content}]
    call = {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": json.dumps(use.input)}}
    plain: Any = [*ASK_TIMER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    for is_error, content in ((False, "It rings"), (True, {"error": "It rings"})):
        block = {**RESULT, "tool_use_id": use.id, "is_error": is_error}
        again = {"role": "user", "content": [block, {"type": "text", "text": "Thanks!"}]}
        told = {"role": "tool", "tool_call_id": use.id, "content": content}
        found = messenger.messages.create(**{**ASKED_TIMER, "messages": [*turns, again]})
        sent = [*plain, told, {"role": "user", "content": "Thanks!"}]
        expected = chat(client, messages=sent, tools=TOOLS)
        assert "".join(item.text for item in found.content if item.type == "text") == expected.message.content
        counted = messenger.messages.count_tokens(model="demo", messages=[*turns, again], tools=[TIMER])  # type: ignore[list-item]
        body = client.chat.completions.create(model="demo", messages=sent, tools=TOOLS, max_tokens=1)  # type: ignore[arg-type]
        assert body.usage is not None
        assert counted.input_tokens == body.usage.prompt_tokens


def test_without_a_choice_of_tools_json_stays_text(messenger: anthropic.Anthropic) -> None:
    found = messenger.messages.create(**{**ASKED_TIMER, "tool_choice": {"type": "none"}})
    assert {block.type for block in found.content} <= {"text"}
    assert found.stop_reason in ("end_turn", "max_tokens")


def test_a_call_that_is_cut_is_no_call(messenger: anthropic.Anthropic) -> None:
    full = messenger.messages.create(**ASKED_TIMER, tool_choice={"type": "any"})
    found = messenger.messages.create(
        **{**ASKED_TIMER, "max_tokens": full.usage.output_tokens - 3}, tool_choice={"type": "any"}
    )
    assert [block.type for block in found.content] == ["text"]
    assert found.stop_reason == "max_tokens"


def test_an_answer_goes_on_with_a_last_message_of_the_assistant(
    messenger: anthropic.Anthropic, client: openai.OpenAI
) -> None:
    begun: Any = [*MESSAGES, {"role": "assistant", "content": "It is 7"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    found: Any = messenger.messages.create(**{**ASKED, "messages": begun})
    assert found.content[0].text == chat(client, messages=begun, extra_body=extra).message.content


def test_a_schema_holds(messenger: anthropic.Anthropic, client: openai.OpenAI) -> None:
    found: Any = messenger.messages.create(**ASKED, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    form: Any = {"type": "json_schema", "json_schema": {"name": "age", "schema": SCHEMA}}
    assert found.content[0].text == chat(client, messages=MESSAGES, response_format=form).message.content
    assert isinstance(json.loads(found.content[0].text)["age"], int)


def test_an_asynchronous_client_gets_the_same(messenger: anthropic.Anthropic, live: Live) -> None:
    async def main() -> Any:
        async with (
            anthropic.AsyncAnthropic(base_url=live.url, auth_token="none", api_key=None) as made,
            made.messages.stream(**ASKED) as stream,
        ):
            text = "".join([piece async for piece in stream.text_stream])
            count = await made.messages.count_tokens(model="demo", messages=MESSAGES)
            return text, count.input_tokens

    text, count = asyncio.run(main())
    whole: Any = messenger.messages.create(**ASKED)
    assert text == whole.content[0].text
    assert count == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def one(content: Any, role: str = "user") -> Any:
    return {"messages": [{"role": role, "content": content}]}


PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking.type"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"output_config": {"effort": "low"}}, "output_config.effort"),
    (one([PIXEL]), "messages[0].content[0].type"),
    (one([{"type": "document", "source": {}}]), "messages[0].content[0].type"),
    (one([{"type": "tool_use", "id": "a", "name": "b", "input": {}}]), "messages[0].content"),
    (one([{"type": "tool_use", "id": "a", "name": "b", "input": {}}], role="assistant"), "tool_result must follow"),
    (one("Hello", role="system"), "messages[0].role"),
    ({"messages": []}, "messages"),
    (
        {"system": "Hi", "messages": [*MESSAGES, {"role": "assistant", "content": ""}]},
        "messages[1] cannot be continued",
    ),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    ({"tools": [TIMER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [TIMER], "tool_choice": {"type": "tool", "name": "fly"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"stop_sequences": ["a"] * 20}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "cat"}}}}, "output_config.format"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "#"}}}}, "output_config.format"),
    ({"max_tokens": 5000}, "2048"),
]


@pytest.mark.parametrize(("asked", "words"), ERRORS, ids=[str(index) for index in range(len(ERRORS))])
def test_what_cannot_be_honoured_is_a_400_that_names_it(
    messenger: anthropic.Anthropic, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        messenger.messages.create(**{**ASKED, "extra_body": asked})
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert words in body["error"]["message"]


def test_what_fails_in_a_stream_is_an_event_of_its_own() -> None:
    async def values() -> AsyncIterator[Any]:
        yield {"type": "message_start"}
        raise ShuttingDown("the answer ends here")

    async def main() -> list[bytes]:
        return [line async for line in lines(values(), "id")]

    begun, failed = asyncio.run(main())
    assert begun.startswith(b"event: message_start\n")
    name, data = failed.decode().strip().split("\n")
    assert name == "event: error"
    error = {"type": "overloaded_error", "message": "the answer ends here"}
    assert json.loads(data.removeprefix("data: ")) == {"type": "error", "error": error}


def test_other_failures_have_anthropics_shape_too(messenger: anthropic.Anthropic, live: Live) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        messenger.messages.create(**{**ASKED, "model": "messenger"})
    body: Any = missing.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert "'messenger'" in body["error"]["message"]
    unknown = httpx.post(live.url + "/v1/messages/batches", json={})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    with (
        started("--api-key", "key-of-mine") as server,
        anthropic.Anthropic(base_url=server.url, api_key="key-of-mine", max_retries=0) as mine,
        anthropic.Anthropic(base_url=server.url, api_key="key-of-others", max_retries=0) as other,
    ):
        assert mine.messages.create(**ASKED).content
        with pytest.raises(anthropic.AuthenticationError) as refused:
            other.messages.create(**ASKED)
        body = refused.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
