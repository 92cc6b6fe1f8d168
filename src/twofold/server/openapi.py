"""GET /openapi.json: the API described in OpenAPI 3.1, made from the table of routes and the structs of requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from twofold.server import answers
from twofold.server.access import OPEN, json_response
from twofold.server.generation import Endpoint
from twofold.server.settings import ServerSettings

Json = dict[str, Any]
JSON, SSE, NDJSON, TEXT = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
PLACE = re.compile(r"\{(\w+)(?::path)?\}")
REF = "#/components/schemas/{name}"
PROBLEMS = {
    400: "The request is wrong; `param` names the field.",
    401: "The key is missing or none of ours.",
    403: "The host is not this machine.",
    404: "There is no such model, session or route.",
    408: "The request did not come in time, or the answer was not read.",
    413: "The body is too large.",
    415: "The body is not called application/json.",
    429: "Too many requests; `Retry-After` says when to come back.",
    431: "The head of the request is too large.",
    500: "The request failed through no fault of the client.",
    503: "The server is leaving, or has too many connections.",
}
WITH_BODY = (404, 413, 415)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a route does. answer: the shape of its JSON; media: other types the answer may have."""

    about: str
    answer: type[Struct] | None = None
    media: tuple[str, ...] = ()


ROUTES = {
    "POST /v1/chat/completions": Described(about="Answer a chat.", answer=answers.ChatCompletion, media=(SSE,)),
    "POST /v1/completions": Described(about="Go on with prompts.", answer=answers.Completion, media=(SSE,)),
    "POST /v1/messages": Described(
        about="Answer a chat in Anthropic's form.", answer=answers.AnthropicMessage, media=(SSE,)
    ),
    "POST /v1/messages/count_tokens": Described(about="Count a chat's tokens.", answer=answers.TokenCount),
    "POST /api/chat": Described(about="Answer a chat in Ollama's form.", answer=answers.OllamaAnswer, media=(NDJSON,)),
    "POST /api/generate": Described(
        about="Answer a prompt in Ollama's form.", answer=answers.OllamaAnswer, media=(NDJSON,)
    ),
    "GET /api/tags": Described(about="The models in Ollama's form.", answer=answers.OllamaModels),
    "GET /api/ps": Described(about="The models in memory in Ollama's form.", answer=answers.OllamaModels),
    "POST /api/show": Described(about="What is known of a model, in Ollama's form.", answer=answers.OllamaShown),
    "GET /api/version": Described(about="The version in Ollama's form.", answer=answers.VersionTold),
    "GET /v1/models": Described(about="The names that are served.", answer=answers.ModelList),
    "GET /v1/models/{name}": Described(about="One of the names.", answer=answers.ModelCard),
    "GET /v1/sessions": Described(about="The conversations that are kept.", answer=answers.SessionList),
    "DELETE /v1/sessions/{name}": Described(about="Forget a conversation.", answer=answers.SessionGone),
    "POST /tokenize": Described(about="Token ids of a text or a chat.", answer=answers.Tokens),
    "POST /detokenize": Described(about="The text of token ids.", answer=answers.PromptText),
    "GET /health": Described(about="200 while requests are taken, else 503, both empty."),
    "GET /version": Described(about="The version, and whether sessions are kept.", answer=answers.ServerVersionTold),
    "GET /load": Described(about="How busy the server is, and whether it is leaving.", answer=answers.LoadTold),
    "GET /experts": Described(about="Tokens per expert, for each layer that has experts.", answer=answers.ExpertsTold),
    "GET /metrics": Described(about="Figures for Prometheus.", media=(TEXT,)),
    "GET /openapi.json": Described(about="This description.", media=(JSON,)),
}


def name_of(endpoint: Endpoint) -> str:
    """How the table above calls a route."""
    return f"{endpoint.method} {path_of(endpoint)}"


def path_of(endpoint: Endpoint) -> str:
    """The path as OpenAPI writes it."""
    return PLACE.sub(r"{\1}", endpoint.path)


def description_endpoint(others: Sequence[Endpoint], settings: ServerSettings, version: str) -> Endpoint:
    """GET /openapi.json, which describes itself too."""
    path = "/openapi.json"

    async def handler(request: Request) -> Response:
        return json_response(document)

    own = Endpoint(path=path, handler=handler)
    document = describe([*others, own], settings, version)
    return own


def describe(endpoints: Sequence[Endpoint], settings: ServerSettings, version: str) -> Json:
    """The OpenAPI document."""
    structs = [item.struct for item in endpoints if item.struct] + [
        route.answer for route in ROUTES.values() if route.answer
    ]
    errors = (answers.ErrorBody, answers.AnthropicError, answers.OllamaError)
    _, schemas = msgspec.json.schema_components([*dict.fromkeys(structs), *errors], ref_template=REF)
    paths: dict[str, Json] = {}
    for item in endpoints:
        paths.setdefault(path_of(item), {})[item.method.lower()] = operation(item, settings)
    components: Json = {"schemas": dict(schemas)}
    if settings.api_keys:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "twofold",
            "version": version,
            "description": "A model behind the APIs of OpenAI and others.",
        },
        "servers": [{"url": settings.root_path or "/"}],
        "paths": paths,
        "components": components,
    }


def operation(endpoint: Endpoint, settings: ServerSettings) -> Json:
    """One route."""
    route = ROUTES.get(name_of(endpoint), Described(about=endpoint.path))
    found: Json = {
        "summary": route.about,
        "operationId": re.sub(r"\W+", "_", name_of(endpoint)).strip("_"),
        "responses": responses(endpoint, route, settings),
    }
    places = PLACE.findall(endpoint.path)
    if places:
        text = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text} for name in places]
    if endpoint.struct:
        schema = {"$ref": REF.format(name=endpoint.struct.__name__)}
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if settings.api_keys and endpoint.path not in OPEN:
        found["security"] = [{"bearer": []}, {"x-api-key": []}]
    return found


def responses(endpoint: Endpoint, route: Described, settings: ServerSettings) -> Json:
    """What a route may answer."""
    content: Json = {name: {} for name in route.media}
    if route.answer:
        content[JSON] = {"schema": {"$ref": REF.format(name=route.answer.__name__)}}
    kind = error_of(endpoint.path)
    error = {JSON: {"schema": {"$ref": REF.format(name=kind.__name__)}}}
    found: Json = {
        "200": {"description": route.about, "headers": headers(200), **({"content": content} if content else {})}
    }
    for status, text in PROBLEMS.items():
        if may_answer(endpoint, status, settings):
            found[str(status)] = {"description": text, "headers": headers(status), "content": error}
    if endpoint.path == "/health":
        found["503"] = {"description": "No requests are taken."}
    return found


def may_answer(endpoint: Endpoint, status: int, settings: ServerSettings) -> bool:
    """Whether a route can fail in this way."""
    if status == 401:
        return bool(settings.api_keys) and endpoint.path not in OPEN
    if status == 403:
        return settings.is_local and not settings.api_keys
    return status not in WITH_BODY or endpoint.struct is not None or (status == 404 and "{" in endpoint.path)


def headers(status: int) -> Mapping[str, Json]:
    """Headers that answers of this status have."""
    found: Json = {"X-Request-Id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}}}
    if status in (429, 503):
        found["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
    return found


def error_of(path: str) -> type[Struct]:
    """The shape of a route's errors, see problems.body_for."""
    if path.startswith("/v1/messages"):
        return answers.AnthropicError
    return answers.OllamaError if path.startswith("/api/") else answers.ErrorBody
