"""The routes."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twofold.server.access import Gate, as_problem, json_response, problem_response
from twofold.server.anthropic import anthropic_endpoints
from twofold.server.asks import read_conversation
from twofold.server.figures import used_share
from twofold.server.generation import Endpoint, generating, read_as
from twofold.server.ollama import ollama_endpoints
from twofold.server.ollama_models import ollama_model_endpoints
from twofold.server.openai import CHAT, COMPLETION
from twofold.server.openapi import description_endpoint
from twofold.server.outside import Cors, RootPath
from twofold.server.page import page_routes
from twofold.server.problems import Problem
from twofold.server.schema import DetokenizeRequest, TokenizeRequest
from twofold.server.serving import Serving
from twofold.server.sessions import session_endpoints

Json = dict[str, Any]


class Routes:
    """One method per route that does not generate."""

    def __init__(self, serving: Serving, version: str) -> None:
        self.serving = serving
        self.version_text = version

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
        asked = await read_as(request, self.serving, TokenizeRequest)
        self.serving.check_model(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise Problem(400, "give either prompt or messages", param="prompt")
        tokens = await run_in_threadpool(self.tokens_of, asked)
        return json_response({"tokens": tokens, "count": len(tokens), "max_model_len": self.serving.model.context})

    def tokens_of(self, asked: TokenizeRequest) -> list[int]:
        """Ids of what /tokenize was given."""
        if asked.prompt is not None:
            return self.serving.model.tokenizer.encode(asked.prompt, bos=asked.add_special_tokens is not False)
        return read_conversation(asked, self.serving, asked.tools or [])

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        asked = await read_as(request, self.serving, DetokenizeRequest)
        self.serving.check_model(asked.model)
        text = self.serving.model.tokenizer.decode(asked.tokens, skip_special=False)
        return json_response({"prompt": text})

    async def health(self, request: Request) -> Response:
        """GET /health: 200 and empty while requests are taken, else 503."""
        return Response(status_code=200 if self.serving.runner.is_alive and not self.serving.runner.is_closing else 503)

    async def version(self, request: Request) -> Response:
        """GET /version; also whether sessions are kept, which the chat page wants to know."""
        return json_response({"version": self.version_text, "sessions": self.serving.runner.sessions is not None})

    async def load(self, request: Request) -> Response:
        """GET /load: vLLM's server_load and what a balancer wants to know beside it."""
        return json_response(load_of(self.serving))

    async def experts(self, request: Request) -> Response:
        """GET /experts: tokens per expert since the start, for each layer that has experts, in the network's order."""
        count = self.serving.metrics.facts.expert_counts
        return json_response({"layers": [] if count is None else count()})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.serving.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def load_of(serving: Serving) -> Json:
    """Requests in flight and how many of them run, room in the cache, tokens per second lately, and whether the server
    is leaving.
    """
    runner = serving.runner
    running = len(runner.engine.scheduler.running)
    rates = serving.metrics.work.lately(time.perf_counter())
    return {
        "server_load": runner.live,
        "running": running,
        "waiting": max(0, runner.live - running),
        "cache_free_share": round(1.0 - used_share(runner), 4),
        "prompt_tokens_per_second": round(rates["input"], 2),
        "generation_tokens_per_second": round(rates["output"], 2),
        "draining": runner.is_closing,
    }


def endpoints(serving: Serving, version: str) -> list[Endpoint]:
    """The table of routes, without the chat page."""
    routes = Routes(serving, version)
    table = [
        generating("/v1/chat/completions", serving, CHAT),
        generating("/v1/completions", serving, COMPLETION),
        *anthropic_endpoints(serving),
        *ollama_endpoints(serving),
        *ollama_model_endpoints(serving, version),
        Endpoint(path="/v1/models", handler=routes.models),
        Endpoint(path="/v1/models/{name:path}", handler=routes.model),
        *session_endpoints(serving),
        Endpoint(path="/tokenize", handler=routes.tokenize, method="POST", struct=TokenizeRequest),
        Endpoint(path="/detokenize", handler=routes.detokenize, method="POST", struct=DetokenizeRequest),
        Endpoint(path="/health", handler=routes.health),
        Endpoint(path="/version", handler=routes.version),
        Endpoint(path="/load", handler=routes.load),
        Endpoint(path="/experts", handler=routes.experts),
        Endpoint(path="/metrics", handler=routes.metrics),
    ]
    return [*table, description_endpoint(table, serving.settings, version)]


def build_app(serving: Serving, version: str) -> Starlette:
    """The ASGI application."""
    table = [Route(item.path, item.handler, methods=[item.method]) for item in endpoints(serving, version)]
    table += page_routes()
    settings = serving.settings
    before = [
        Middleware(RootPath, root_path=settings.root_path),
        Middleware(Cors, origins=settings.cors_origins),
        Middleware(Gate, serving=serving, handlers=frozenset(route.path for route in table)),
    ]

    async def failed(request: Request, error: Exception) -> Response:
        return problem_response(as_problem(error), request.url.path)

    return Starlette(routes=table, middleware=before, exception_handlers={404: failed, 405: failed})
