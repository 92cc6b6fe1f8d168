"""Ollama's two routes that generate: its requests in OpenAI's words, its answers one JSON object a line."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from twofold.errors import RequestTooLong
from twofold.ops.types import Drawn
from twofold.server.access import json_response
from twofold.server.asks import read_chat, read_completion
from twofold.server.exchange import encoded
from twofold.server.generation import Api, Endpoint, Handler, generate, read_as
from twofold.server.ollama_schema import (
    OllamaCall,
    OllamaChat,
    OllamaGenerate,
    OllamaMessage,
    OllamaRequest,
    Options,
    check_request,
    read_format,
    refuse,
)
from twofold.server.openai import chat_logprobs, gather
from twofold.server.parts import Called, Piece, WholeCalls
from twofold.server.problems import Problem, ollama_body
from twofold.server.schema import ChatRequest, CompletionRequest
from twofold.server.serving import Ask, Job, Serving

Json = dict[str, Any]
R = TypeVar("R", bound=OllamaRequest)
NDJSON = "application/x-ndjson"
NO_IMAGES = "this server reads text only"
NAMES = {
    "response_format": "format",
    "repetition_penalty": "options.repeat_penalty",
    **{name: f"options.{name}" for name in (
        "temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "seed", "stop",
    )},
}  # fmt: skip


def known_name(serving: Serving, name: str) -> str:
    """A served name; the tag latest may be left out or added. Raises Problem 404."""
    plain = name.removesuffix(":latest")
    return serving.check_model(name if name in serving.model.names else plain)


def sampling(options: Options) -> Json:
    """Options in the words of OpenAI and vLLM."""
    return {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": None if options.seed == -1 else options.seed,
        "stop": options.stop,
    }


def plain_message(message: OllamaMessage, index: int) -> Json:
    """A message in OpenAI's words. Raises Problem 400."""
    refuse(message.images, f"messages[{index}].images", NO_IMAGES)
    refuse(message.thinking, f"messages[{index}].thinking", "the models of this server do not think")
    plain: Json = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        plain["tool_calls"] = [plain_call(call) for call in message.tool_calls]
    named = {"name": message.tool_name, "tool_call_id": message.tool_call_id}
    return plain | {key: value for key, value in named.items() if value}


def plain_call(call: OllamaCall) -> Json:
    """A call in OpenAI's words."""
    return {
        "id": call.id or new_id(),
        "type": "function",
        "function": {"name": call.function.name, "arguments": call.function.arguments},
    }


def chat_request(asked: OllamaRequest, serving: Serving, messages: list[Json], **more: Any) -> ChatRequest:
    """A chat request with the options of an Ollama one; an answer goes on with a last message of the assistant."""
    last = messages[-1] if messages else {}
    return ChatRequest(
        model=known_name(serving, asked.model),
        messages=messages,
        continue_final_message=last.get("role") == "assistant" and "tool_calls" not in last,
        response_format=read_format(asked),
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        **sampling(asked.chosen),
        **more,
    )


def read_chatting(asked: OllamaChat, serving: Serving) -> Ask:
    """What POST /api/chat asks for. Raises Problem and what encoding a prompt raises."""
    if asked.tools and asked.format:
        refuse(True, "format", "together with tools an answer cannot be held to a form")
    messages = [plain_message(message, index) for index, message in enumerate(asked.messages or [])]
    return within(read_chat(chat_request(asked, serving, messages, tools=asked.tools), serving), asked, serving)


def read_generating(asked: OllamaGenerate, serving: Serving) -> Ask:
    """What POST /api/generate asks for: a conversation of one message, or with raw the prompt as it is."""
    if asked.raw:
        return within(read_raw(asked, serving), asked, serving)
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    messages = [*system, {"role": "user", "content": asked.prompt or ""}]
    return within(read_chat(chat_request(asked, serving, messages), serving), asked, serving)


def read_raw(asked: OllamaGenerate, serving: Serving) -> Ask:
    """A prompt that its writer has put into the model's template: special tokens in it are special."""
    refuse(asked.system, "system", "a raw prompt holds everything")
    tokenizer = serving.model.tokenizer
    ids = tokenizer.encode_with_specials(asked.prompt or "")
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    request = CompletionRequest(
        model=known_name(serving, asked.model),
        prompt=ids if ids[:1] == begin else begin + ids,
        response_format=read_format(asked),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        **sampling(asked.chosen),
    )
    ask = read_completion(request, serving)
    return replace(ask, params=replace(ask.params, max_tokens=None))  # the default of 16 is OpenAI's


def within(ask: Ask, asked: OllamaRequest, serving: Serving) -> Ask:
    """The same with an end: num_predict tokens, or where num_ctx or the context ends.

    Raises RequestTooLong when the prompt leaves no room, Problem 400 when num_ctx is more than there is.
    """
    options, context = asked.chosen, serving.model.context
    if (options.num_ctx or 0) > context:
        raise Problem(
            400, f"options.num_ctx is {options.num_ctx}; this server holds {context}. Lower it, or start the server "
            "with a larger --context.", param="options.num_ctx",
        )  # fmt: skip
    limit = options.num_ctx or context
    room = limit - len(ask.prompts[0])
    if room < 1:
        raise RequestTooLong(
            f"the prompt has {len(ask.prompts[0])} tokens and num_ctx is {limit}. Shorten the prompt or raise num_ctx."
        )
    wanted, default = options.num_predict or 0, serving.model.defaults.max_tokens
    if wanted < 1 and options.num_ctx is None:
        return ask
    most = min(room, wanted if wanted > 0 else default or room)
    return replace(ask, params=replace(ask.params, max_tokens=most))


def now() -> str:
    """The time as RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def new_id() -> str:
    """A name for a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class Answer:
    """Lines of one answer. `is_chat`: a message with calls, else a text under the name response."""

    def __init__(self, job: Job, asked: OllamaRequest) -> None:
        self.job = job
        self.asked = asked
        self.is_chat = isinstance(asked, OllamaChat)
        self._calls = 0

    def line(self, pieces: Sequence[Piece], drawn: Sequence[Drawn] = (), **more: Any) -> Json:
        """One object for some pieces of the answer."""
        text = "".join(piece.text for piece in pieces if not isinstance(piece, Called))
        shape: Json = {"model": self.asked.model, "created_at": now(), **said(self.is_chat, text)}
        calls = [self.call(piece) for piece in pieces if isinstance(piece, Called)]
        if calls:
            shape["message"]["tool_calls"] = calls
        if self.asked.logprobs and drawn:
            shape["logprobs"] = chat_logprobs(self.job.serving.model.tokenizer, drawn)["content"]
        return {**shape, "done": False, **more}

    def call(self, piece: Called) -> Json:
        """A call in Ollama's shape."""
        self._calls += 1
        return {
            "id": new_id(),
            "function": {"index": self._calls - 1, "name": piece.name, "arguments": piece.arguments},
        }

    def end(self) -> Json:
        """What the last line adds. Durations are in nanoseconds; the model was loaded before, so that takes none."""
        [choice] = self.job.choices
        request_id, arrived = choice.request.id, self.job.ask.arrived_s
        first = choice.latest_s if choice.first_s is None else choice.first_s
        return {
            "done": True,
            "done_reason": "length" if choice.finish == "length" else "stop",
            "total_duration": nanoseconds(time.perf_counter() - arrived),
            "load_duration": 0,
            "prompt_eval_count": len(choice.request.prompt),
            "prompt_eval_duration": nanoseconds(first - self.job.stream.started_s.get(request_id, arrived)),
            "eval_count": choice.tokens,
            "eval_duration": nanoseconds(choice.latest_s - first),
        }


def said(is_chat: bool, text: str) -> Json:
    """A text where the route's clients look for it."""
    return {"message": {"role": "assistant", "content": text}} if is_chat else {"response": text}


def nanoseconds(seconds: float) -> int:
    """Ollama's unit of time."""
    return round(max(0.0, seconds) * 1e9)


async def answer_lines(job: Job, asked: OllamaRequest) -> AsyncGenerator[Json]:
    """The lines of a streamed answer; a call is in one line, when it is whole."""
    answer, calls = Answer(job, asked), WholeCalls()
    async with contextlib.aclosing(job.deltas()) as source:
        async for deltas in source:
            for delta in deltas:
                pieces = calls.feed(delta.parts)
                if pieces or (asked.logprobs and delta.drawn):
                    yield answer.line(pieces, delta.drawn)
    rest = calls.flush()
    if rest:
        yield answer.line(rest)
    yield answer.line([], **answer.end())


async def answer_body(job: Job, asked: OllamaRequest) -> Json:
    """The whole of an answer."""
    answer, calls = Answer(job, asked), WholeCalls()
    [deltas] = await gather(job)
    pieces = [*calls.feed(part for delta in deltas for part in delta.parts), *calls.flush()]
    return answer.line(pieces, [item for delta in deltas for item in delta.drawn], **answer.end())


def line(value: Json) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def lines(values: AsyncIterator[Json], request_id: str) -> AsyncIterator[bytes]:
    """Ollama's stream; what fails in it is a line with an error."""
    return encoded(values, request_id, line, ollama_body)


CHATTING: Api[OllamaChat] = Api(
    struct=OllamaChat, read=read_chatting, chunks=answer_lines, body=answer_body, lines=lines, media_type=NDJSON,
    names=NAMES,
)  # fmt: skip
GENERATING: Api[OllamaGenerate] = Api(
    struct=OllamaGenerate, read=read_generating, chunks=answer_lines, body=answer_body, lines=lines,
    media_type=NDJSON, names=NAMES,
)  # fmt: skip


def is_loading(asked: OllamaRequest) -> bool:
    """Whether nothing is asked but to have the model in memory."""
    return not (asked.messages if isinstance(asked, OllamaChat) else getattr(asked, "prompt", None))


def check_generate(asked: OllamaGenerate) -> None:
    """Raise Problem 400 for fields of POST /api/generate that cannot be honoured."""
    refuse(asked.suffix, "suffix", "these models do not fill in")
    refuse(asked.template, "template", "the model's own is used; raw takes a prompt as it is")
    refuse(asked.context, "context", "use /api/chat with the whole conversation, its beginning is cached")
    refuse(asked.images, "images", NO_IMAGES)


def handler_of(serving: Serving, api: Api[R]) -> Handler:
    """Answers requests of an API, also those that only want the model in memory."""

    async def handler(request: Request) -> Response:
        asked = await read_as(request, serving, api.struct)
        known_name(serving, asked.model)
        check_request(asked, serving.model.about.threads)
        if isinstance(asked, OllamaGenerate):
            check_generate(asked)
        if not is_loading(asked):
            return await generate(request, serving, api, asked)
        shape = said(isinstance(asked, OllamaChat), "")
        return json_response({"model": asked.model, "created_at": now(), **shape, "done": True, "done_reason": "load"})

    return handler


def ollama_endpoints(serving: Serving) -> list[Endpoint]:
    """POST /api/chat and /api/generate."""
    return [
        Endpoint(path="/api/chat", handler=handler_of(serving, CHATTING), method="POST", struct=OllamaChat),
        Endpoint(path="/api/generate", handler=handler_of(serving, GENERATING), method="POST", struct=OllamaGenerate),
    ]
