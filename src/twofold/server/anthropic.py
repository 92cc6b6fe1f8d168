"""Anthropic's messages: its requests are chat requests in other words, its answers blocks of text and calls."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from twofold.errors import TemplateError
from twofold.server.access import json_response
from twofold.server.anthropic_schema import (
    CountRequest,
    CustomTool,
    MessagesRequest,
    TextBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)
from twofold.server.asks import read_chat
from twofold.server.exchange import encoded
from twofold.server.exchange import event as openai_event
from twofold.server.generation import Api, Endpoint, generating, read_as
from twofold.server.openai import gather
from twofold.server.parts import Called, WholeCalls
from twofold.server.problems import Problem, anthropic_body
from twofold.server.schema import ChatRequest, FunctionName, FunctionTool, NamedTool, ResponseFormat, Tool
from twofold.server.serving import Ask, Choice, Job, Serving
from twofold.text.tools import CallArguments, CallBegun, Part, Said

Json = dict[str, Any]
NAMES = {"response_format": "output_config.format", "stop": "stop_sequences"}
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def as_chat(asked: CountRequest) -> ChatRequest:
    """The same request in OpenAI's words; an answer goes on with a last message of the assistant. Raises Problem."""
    messages = [{"role": "system", "content": text_of(asked.system)}] if asked.system else []
    for index, turn in enumerate(asked.messages):
        messages += plain_turns(turn, f"messages[{index}]")
    if messages and "tool_calls" in messages[-1]:
        raise Problem(400, "the last message calls a tool; a tool_result must follow it", param="messages")
    form = asked.output_config.format if asked.output_config else None
    tools, choice = asked.tools or [], asked.tool_choice
    chat = ChatRequest(
        model=asked.model,
        messages=messages,
        continue_final_message=bool(messages) and messages[-1]["role"] == "assistant",
        tools=[plain_tool(tool) for tool in tools] or None,
        tool_choice=read_tool_choice(choice, tools) if choice else None,
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
        response_format=ResponseFormat(type="json_schema", json_schema={"schema": form.schema}) if form else None,
    )
    if isinstance(asked, MessagesRequest):
        chat.max_tokens = asked.max_tokens
        chat.stop = list(asked.stop_sequences or ())
        chat.temperature, chat.top_p, chat.top_k = asked.temperature, asked.top_p, asked.top_k
    return chat


def plain_turns(turn: Turn, place: str) -> Iterator[Json]:
    """The messages of one turn: calls belong to an assistant's message, what they gave is a message of its own."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    texts = [block.text for block in turn.content if isinstance(block, TextBlock)]
    calls = [plain_call(block) for block in turn.content if isinstance(block, ToolUseBlock)]
    results = [plain_result(block) for block in turn.content if isinstance(block, ToolResultBlock)]
    wrong = results if turn.role == "assistant" else calls
    if wrong:
        kind = "tool_result" if turn.role == "assistant" else "tool_use"
        raise Problem(400, f"a message of role {turn.role} cannot hold a {kind} block", param=f"{place}.content")
    yield from results
    if texts or calls or not results:
        yield {"role": turn.role, "content": "".join(texts), **({"tool_calls": calls} if calls else {})}


def plain_call(block: ToolUseBlock) -> Json:
    """A call in OpenAI's shape."""
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def plain_result(block: ToolResultBlock) -> Json:
    """What a call gave as a message; an error is told to the model as one."""
    text = text_of(block.content or "")
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": {"error": text} if block.is_error else text}


def text_of(content: str | list[TextBlock]) -> str:
    """A text, or the texts of blocks."""
    return content if isinstance(content, str) else "".join(block.text for block in content)


def plain_tool(tool: CustomTool) -> Tool:
    """A tool in OpenAI's shape."""
    function = FunctionTool(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return Tool(type="function", function=function)


def read_tool_choice(choice: ToolChoice, tools: list[CustomTool]) -> Any:
    """tool_choice in OpenAI's words. Raises Problem 400."""
    if (choice.type == "tool") != (choice.name is not None):
        raise Problem(400, "tool_choice has a name with the type tool, and only then", param="tool_choice.name")
    if choice.type in ("any", "tool") and not tools:
        raise Problem(400, f"tool_choice is {choice.type}, which needs tools", param="tool_choice")
    if choice.name is not None:
        return NamedTool(type="function", function=FunctionName(name=choice.name))
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def read_messages(asked: CountRequest, serving: Serving) -> Ask:
    """What a request asks for. Raises Problem, TemplateError or InvalidSampling."""
    try:
        return read_chat(as_chat(asked), serving)
    except TemplateError as error:
        places = ["system"] if asked.system else []
        for index, turn in enumerate(asked.messages):
            places += [f"messages[{index}]"] * len(list(plain_turns(turn, "")))
        named = dict(enumerate(places))
        told = re.sub(r"message (\d{1,6})", lambda found: named.get(int(found[1]), found[0]), str(error))
        raise TemplateError(told) from error


def usage_of(job: Job) -> Json:
    """Tokens read and written so far. What the prefix cache knew is not among the input tokens."""
    [choice] = job.choices
    return {
        "input_tokens": len(choice.request.prompt) - choice.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": choice.cached,
        "output_tokens": choice.tokens,
    }


def ending(choice: Choice) -> Json:
    """Why a finished answer ended."""
    if choice.finish == "stop" and choice.stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_string}
    return {"stop_reason": REASONS[choice.finish or "stop"], "stop_sequence": None}


def message_of(job: Job, asked: MessagesRequest, content: list[Json], end: Json) -> Json:
    """A message."""
    return {
        "id": f"msg_{uuid.uuid4().hex[:24]}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        **end,
        "usage": usage_of(job),
    }


async def message_body(job: Job, asked: MessagesRequest) -> Json:
    """The whole of an answer."""
    [deltas] = await gather(job)
    calls = WholeCalls()
    pieces = [*calls.feed(part for delta in deltas for part in delta.parts), *calls.flush()]
    content: list[Json] = []
    for piece in pieces:
        if isinstance(piece, Called):
            content.append({"type": "tool_use", "id": new_id(), "name": piece.name, "input": piece.arguments})
        elif content and content[-1]["type"] == "text":
            content[-1]["text"] += piece.text
        else:
            content.append({"type": "text", "text": piece.text})
    end = ending(job.choices[0])
    if end["stop_reason"] == "tool_use" and not any(block["type"] == "tool_use" for block in content):
        end["stop_reason"] = "end_turn"
    return message_of(job, asked, content, end)


class BlockEvents:
    """Events of the blocks of an answer while it grows: one block is open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None

    def feed(self, part: Part) -> Iterator[Json]:
        """Events for one more part."""
        if isinstance(part, Said):
            if self._open != "text":
                yield from self.begin({"type": "text", "text": ""})
            yield self.grown({"type": "text_delta", "text": part.text})
        elif isinstance(part, CallBegun):
            yield from self.begin({"type": "tool_use", "id": new_id(), "name": part.name, "input": {}})
        elif isinstance(part, CallArguments):
            yield self.grown({"type": "input_json_delta", "partial_json": part.text})

    def begin(self, block: Json) -> Iterator[Json]:
        """Open a block."""
        yield from self.close()
        self._index += 1
        self._open = block["type"]
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def grown(self, delta: Json) -> Json:
        """More of the open block."""
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def close(self) -> Iterator[Json]:
        """Close the open block, if any."""
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._index}


async def message_events(job: Job, asked: MessagesRequest) -> AsyncGenerator[Json]:
    """The events of a streamed answer."""
    blocks, has_begun = BlockEvents(), False
    nothing = {"stop_reason": None, "stop_sequence": None}
    async with contextlib.aclosing(job.deltas()) as source:
        async for deltas in source:
            if not has_begun:
                has_begun = True
                yield {"type": "message_start", "message": message_of(job, asked, [], nothing)}
            for part in (part for delta in deltas for part in delta.parts):
                for event in blocks.feed(part):
                    yield event
    for event in blocks.close():
        yield event
    yield {"type": "message_delta", "delta": ending(job.choices[0]), "usage": usage_of(job)}
    yield {"type": "message_stop"}


def new_id() -> str:
    """A name for a call."""
    return f"toolu_{uuid.uuid4().hex[:24]}"


def event(value: Json) -> bytes:
    """One server-sent event, named by its type."""
    return f"event: {value['type']}\n".encode() + openai_event(value)


def lines(values: AsyncIterator[Json], request_id: str) -> AsyncIterator[bytes]:
    """Anthropic's event stream; what fails in it is an event of the type error."""
    return encoded(values, request_id, event, anthropic_body)


MESSAGES = Api(
    struct=MessagesRequest,
    read=read_messages,
    chunks=message_events,
    body=message_body,
    lines=lines,
    names=NAMES,
)


def anthropic_endpoints(serving: Serving) -> list[Endpoint]:
    """POST /v1/messages and /v1/messages/count_tokens."""

    def count(asked: CountRequest) -> int:
        return len(read_messages(asked, serving).prompts[0])

    async def count_tokens(request: Request) -> Response:
        asked = await read_as(request, serving, CountRequest)
        return json_response({"input_tokens": await run_in_threadpool(count, asked)})

    return [
        generating("/v1/messages", serving, MESSAGES),
        Endpoint(path="/v1/messages/count_tokens", handler=count_tokens, method="POST", struct=CountRequest),
    ]
