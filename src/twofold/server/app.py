"""The routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twofold.server.access import Gate, as_problem, json_response, problem_response
from twofold.server.exchange import Lines, events, read_body, unless_gone
from twofold.server.openai import (
    Envelope,
    chat_body,
    chat_chunks,
    completion_body,
    completion_chunks,
    plain_tool,
    read_chat,
    read_completion,
)
from twofold.server.page import page_routes
from twofold.server.problems import Problem
from twofold.server.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    decode,
)
from twofold.server.serving import Ask, Job, Serving
from twofold.server.structure import grammar_of

S = TypeVar("S", ChatRequest, CompletionRequest)
T = TypeVar("T")
Json = dict[str, Any]


class Routes:
    """One method per route."""

    def __init__(self, serving: Serving, version: str) -> None:
        self.serving = serving
        self.version_text = version

    async def read(self, request: Request, kind: type[T]) -> T:
        """The request's body as `kind`."""
        limits = self.serving.settings
        return decode(await read_body(request, limits.max_body_bytes, limits.body_timeout_s), kind)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self.generate(
            request, ChatRequest, read_chat, chat_chunks, chat_body, ("chatcmpl", "chat.completion")
        )

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self.generate(
            request, CompletionRequest, read_completion, completion_chunks, completion_body, ("cmpl", "text_completion")
        )

    async def generate(
        self,
        request: Request,
        kind: type[S],
        read: Callable[[S, Serving], Ask],
        chunks: Callable[[Job, Envelope, bool], AsyncIterator[Json]],
        body: Callable[[Job, Envelope], Coroutine[Any, Any, Json]],
        names: tuple[str, str],
    ) -> Response:
        """What both routes do; a prompt is rendered and tokenised beside the event loop."""
        asked = await self.read(request, kind)
        model = self.serving.check_model(asked.model)
        ask = await run_in_threadpool(read, asked, self.serving)
        grammar = await run_in_threadpool(grammar_of, asked)
        if grammar is not None:
            ask = replace(ask, constraint=await self.serving.grammars.compile(grammar))
        ask = replace(ask, salt=f"{request.state.key}/{asked.cache_salt or ''}".encode())
        job = Job(self.serving, ask)
        suffix = ".chunk" if asked.stream and names[0] == "chatcmpl" else ""
        envelope = Envelope(
            prefix=names[0], kind=names[1] + suffix, model=model, fingerprint=self.serving.model.fingerprint
        )
        if not asked.stream:
            try:
                return json_response(await unless_gone(request, body(job, envelope)))
            finally:
                job.stream.cancel()
        wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        source = chunks(job, envelope, wants_usage)
        return Lines(events(source, request.state.request_id), "text/event-stream", job.stream.cancel)

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return json_response({"object": "list", "data": [self.card(name) for name in self.serving.model.names]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        return json_response(self.card(self.serving.check_model(request.path_params["name"])))

    def card(self, name: str) -> Json:
        """What is told of a model."""
        model = self.serving.model
        return {
            "id": name,
            "object": "model",
            "created": model.created,
            "owned_by": "twofold",
            "root": model.names[0],
            "parent": None,
            "max_model_len": model.context,
        }

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        asked = await self.read(request, TokenizeRequest)
        self.serving.check_model(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise Problem(400, "give either prompt or messages", param="prompt")
        tokens = await run_in_threadpool(self.tokens_of, asked)
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": self.serving.model.context})

    def tokens_of(self, asked: TokenizeRequest) -> list[int]:
        """Ids of what /tokenize was given."""
        if asked.prompt is not None:
            return self.serving.model.tokenizer.encode(asked.prompt, bos=asked.add_special_tokens is not False)
        tools = [plain_tool(tool) for tool in asked.tools or []]
        return self.serving.encode_messages(
            asked.messages or [], tools=tools or None, add_generation_prompt=asked.add_generation_prompt is not False
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        asked = await self.read(request, DetokenizeRequest)
        self.serving.check_model(asked.model)
        text = self.serving.model.tokenizer.decode(asked.tokens, skip_special=False)
        return json_response({"prompt": text})

    async def health(self, request: Request) -> Response:
        """GET /health: 200 and empty while requests are taken, else 503."""
        return Response(status_code=200 if self.serving.runner.is_alive and not self.serving.runner.is_closing else 503)

    async def version(self, request: Request) -> Response:
        """GET /version."""
        return json_response({"version": self.version_text})

    async def load(self, request: Request) -> Response:
        """GET /load."""
        return json_response({"server_load": self.serving.runner.live})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.serving.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def build_app(serving: Serving, version: str) -> Starlette:
    """The ASGI application."""
    routes = Routes(serving, version)
    table = [
        Route("/v1/chat/completions", routes.chat, methods=["POST"]),
        Route("/v1/completions", routes.completions, methods=["POST"]),
        Route("/v1/models", routes.models),
        Route("/v1/models/{name:path}", routes.model),
        Route("/tokenize", routes.tokenize, methods=["POST"]),
        Route("/detokenize", routes.detokenize, methods=["POST"]),
        Route("/health", routes.health),
        Route("/version", routes.version),
        Route("/load", routes.load),
        Route("/metrics", routes.metrics),
        *page_routes(),
    ]
    gate = Middleware(
        Gate, settings=serving.settings, metrics=serving.metrics, handlers=frozenset(route.path for route in table)
    )

    async def failed(request: Request, error: Exception) -> Response:
        return problem_response(as_problem(error))

    return Starlette(routes=table, middleware=[gate], exception_handlers={404: failed, 405: failed})
