"""Answers of OpenAI's two routes that generate: deltas to chunks and bodies."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from twofold.ops.types import Drawn
from twofold.server.asks import read_chat, read_completion
from twofold.server.generation import Api
from twofold.server.judged import prompt_logprobs
from twofold.server.schema import ChatRequest, CompletionRequest, Sampled
from twofold.server.serving import Delta, Job
from twofold.text.tokenizer import Tokenizer
from twofold.text.tools import CallArguments, CallBegun, Part

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What every chunk and body of one answer has in common."""

    prefix: str
    kind: str
    model: str
    fingerprint: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, job: Job, asked: Sampled, prefix: str, kind: str) -> Envelope:
        """For the answer to a request, under the name and the id that it gave."""
        served = job.serving.model
        return cls(
            prefix=prefix,
            kind=kind,
            model=asked.model or served.names[0],
            fingerprint=served.fingerprint,
            id=asked.request_id or uuid.uuid4().hex,
        )

    def wrap(self, choices: list[Json], **more: Any) -> Json:
        """A chunk or a body."""
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


class CallShapes:
    """Tool calls of one choice in OpenAI's shape: each gets an id; its name is told once."""

    def __init__(self) -> None:
        self.calls: list[Json] = []

    def fragment(self, part: Part) -> Json | None:
        """The streamed form of a part, None for text; `calls` keeps the whole."""
        if isinstance(part, CallBegun):
            call: Json = {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": part.name, "arguments": ""},
            }
            self.calls.append(call)
            return {"index": part.index, **call, "function": dict(call["function"])}
        if isinstance(part, CallArguments):
            self.calls[part.index]["function"]["arguments"] += part.text
            return {"index": part.index, "function": {"arguments": part.text}}
        return None


def chat_logprobs(tokenizer: Tokenizer, drawn: Sequence[Drawn]) -> Json:
    """Log-probabilities in the chat shape."""

    def entry(token: int, logprob: float) -> Json:
        data = tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    content = [
        {
            **entry(item.token, item.logprob or 0.0),
            "top_logprobs": [entry(token, logprob) for token, logprob in item.alternatives],
        }
        for item in drawn
    ]
    return {"content": content, "refusal": None}


def legacy_logprobs(tokenizer: Tokenizer, drawn: Sequence[Drawn], offset: int) -> Json:
    """Log-probabilities in the shape of /v1/completions. offset: characters before these tokens.

    The first token of a prompt has none.
    """
    shape: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for item in drawn:
        text = tokenizer.token_bytes(item.token).decode("utf-8", "replace")
        shape["tokens"].append(text)
        shape["token_logprobs"].append(item.logprob)
        best: dict[str, float] = {}
        for token, value in item.alternatives:  # of several tokens with one text the likeliest is told
            best.setdefault(tokenizer.token_bytes(token).decode("utf-8", "replace"), value)
        shape["top_logprobs"].append(None if item.logprob is None else best)
        shape["text_offset"].append(offset)
        offset += len(tokenizer.shown_bytes(item.token).decode("utf-8", "replace"))
    return shape


def usage_of_chunk(job: Job, asked: Sampled) -> Json:
    """What a chunk that is not the last says of usage."""
    if asked.includes_usage_so_far:
        return {"usage": job.usage}
    return {"usage": None} if asked.includes_usage else {}


async def chat_chunks(job: Job, asked: ChatRequest) -> AsyncIterator[Json]:
    """The chunks of a streamed chat answer."""
    envelope = Envelope.of(job, asked, "chatcmpl", "chat.completion.chunk")
    tokenizer = job.serving.model.tokenizer
    with_logprobs = job.ask.params.logprobs is not None
    calls = [CallShapes() for _ in job.choices]
    begun: set[int] = set()

    def chunk(index: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        shape = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return envelope.wrap([shape], **usage_of_chunk(job, asked))

    source = job.deltas()
    try:
        async for deltas in source:
            for delta in deltas:
                if delta.index not in begun:
                    begun.add(delta.index)
                    yield chunk(delta.index, {"role": "assistant", "content": ""})
                shaped = [calls[delta.index].fragment(part) for part in delta.parts]
                fragments = [fragment for fragment in shaped if fragment]
                drawn = chat_logprobs(tokenizer, delta.drawn) if with_logprobs and delta.drawn else None
                if delta.text or drawn:
                    yield chunk(delta.index, {"content": delta.text}, drawn)
                for fragment in fragments:
                    yield chunk(delta.index, {"tool_calls": [fragment]})
                if delta.finish:
                    yield chunk(delta.index, {}, finish=delta.finish)
    finally:
        await source.aclose()
    if asked.includes_usage:
        yield envelope.wrap([], usage=job.usage)


async def chat_body(job: Job, asked: ChatRequest) -> Json:
    """The whole of a chat answer."""
    choices = []
    with_logprobs = job.ask.params.logprobs is not None
    for index, deltas in enumerate(await gather(job)):
        calls = CallShapes()
        for delta in deltas:
            for part in delta.parts:
                calls.fragment(part)
        text = "".join(delta.text for delta in deltas)
        message: Json = {"role": "assistant", "content": text if text or not calls.calls else None, "refusal": None}
        if calls.calls:
            message["tool_calls"] = calls.calls
        drawn = [item for delta in deltas for item in delta.drawn]
        choices.append({
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(job.serving.model.tokenizer, drawn) if with_logprobs else None,
            "finish_reason": deltas[-1].finish,
        })  # fmt: skip
    more = {} if asked.prompt_logprobs is None else {"prompt_logprobs": prompt_logprobs(job, 0, asked.prompt_logprobs)}
    return Envelope.of(job, asked, "chatcmpl", "chat.completion").wrap(choices, usage=job.usage, **more)


async def completion_chunks(job: Job, asked: CompletionRequest) -> AsyncIterator[Json]:
    """The chunks of a streamed completion."""
    envelope = Envelope.of(job, asked, "cmpl", "text_completion")
    offsets = [0] * len(job.choices)
    source = job.deltas()
    try:
        async for deltas in source:
            for delta in deltas:
                shape = completion_choice(job, delta.index, [delta], offsets[delta.index])
                yield envelope.wrap([shape], **usage_of_chunk(job, asked))
                offsets[delta.index] += len(delta.text)
    finally:
        await source.aclose()
    if asked.includes_usage:
        yield envelope.wrap([], usage=job.usage)


async def completion_body(job: Job, asked: CompletionRequest) -> Json:
    """The whole of a completion."""
    gathered = await gather(job)
    choices = [completion_choice(job, index, deltas, 0) for index, deltas in enumerate(gathered)]
    if asked.prompt_logprobs is not None:
        for choice in choices:
            choice["prompt_logprobs"] = prompt_logprobs(job, choice["index"], asked.prompt_logprobs)
    return Envelope.of(job, asked, "cmpl", "text_completion").wrap(choices, usage=job.usage)


def completion_choice(job: Job, index: int, deltas: Sequence[Delta], offset: int) -> Json:
    """One choice of /v1/completions from some of its deltas."""
    drawn = [item for delta in deltas for item in delta.drawn]
    wants = job.ask.params.logprobs is not None
    return {
        "index": index,
        "text": "".join(delta.text for delta in deltas),
        "logprobs": legacy_logprobs(job.serving.model.tokenizer, drawn, offset) if wants else None,
        "finish_reason": deltas[-1].finish,
    }


async def gather(job: Job) -> list[list[Delta]]:
    """All deltas of each choice."""
    found: list[list[Delta]] = [[] for _ in job.choices]
    async for deltas in job.deltas():
        for delta in deltas:
            found[delta.index].append(delta)
    return found


CHAT = Api(struct=ChatRequest, read=read_chat, chunks=chat_chunks, body=chat_body)
COMPLETION = Api(struct=CompletionRequest, read=read_completion, chunks=completion_chunks, body=completion_body)
