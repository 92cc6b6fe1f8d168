"""What Ollama's clients ask about models: the list, what one is, which are in memory."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from twofold.server.access import json_response
from twofold.server.generation import Endpoint, read_as
from twofold.server.ollama import known_name
from twofold.server.ollama_schema import ShowRequest
from twofold.server.problems import Problem
from twofold.server.serving import Serving

Json = dict[str, Any]
NEVER = "2999-12-31T23:59:59Z"
"""When the model is unloaded: not while the server runs. Clients want a date."""


def tagged(name: str) -> str:
    """A name as Ollama lists it, with a tag."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def digest(serving: Serving, name: str) -> str:
    """64 hex digits that stay the same for the same name, files and build."""
    return hashlib.sha256(f"{name}\0{serving.model.fingerprint}".encode()).hexdigest()


def details(serving: Serving) -> Json:
    """What kind of model it is."""
    about = serving.model.about
    return {
        "parent_model": "",
        "format": about.format,
        "family": about.family,
        "families": [about.family],
        "parameter_size": readable(about.parameters),
        "quantization_level": about.dtype,
        "context_length": serving.model.context,
    }


def readable(count: int) -> str:
    """A number of parameters: 1.2B, 17M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def modified(serving: Serving) -> str:
    """When the model was loaded."""
    return datetime.fromtimestamp(serving.model.created, UTC).isoformat().replace("+00:00", "Z")


def entry(serving: Serving, name: str) -> Json:
    """What lists tell of a model."""
    listed = tagged(name)
    return {
        "name": listed,
        "model": listed,
        "size": serving.model.about.size_bytes,
        "digest": digest(serving, name),
        "details": details(serving),
    }


def shown(serving: Serving) -> Json:
    """The answer to /api/show; the template is the model's own, in Jinja."""
    model, about = serving.model, serving.model.about
    own = {
        "block_count": about.layers,
        "context_length": about.trained_context,
        "embedding_length": about.hidden,
        "vocab_size": about.vocabulary,
    }
    return {
        "parameters": "\n".join(f"{key:<30} {value}" for key, value in defaults(serving).items()),
        "template": model.template.sources[model.template.name_for(None)],
        "details": details(serving),
        "model_info": {
            "general.architecture": about.family,
            "general.parameter_count": about.parameters,
            **{f"{about.family}.{key}": value for key, value in own.items()},
        },
        "capabilities": ["completion", "tools"],
        "modified_at": modified(serving),
    }


def defaults(serving: Serving) -> Json:
    """What requests leave open, in Ollama's words."""
    params = serving.model.defaults
    found = {
        "num_ctx": serving.model.context,
        "num_predict": params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repeat_penalty": params.repetition_penalty,
    }
    return {key: value for key, value in found.items() if value is not None}


def ollama_model_endpoints(serving: Serving, version: str) -> list[Endpoint]:
    """The routes about models."""

    async def tags(request: Request) -> Response:
        names = serving.model.names
        return json_response({"models": [entry(serving, name) | {"modified_at": modified(serving)} for name in names]})

    async def loaded(request: Request) -> Response:
        more = {"expires_at": NEVER, "size_vram": 0, "context_length": serving.model.context}
        return json_response({"models": [entry(serving, serving.model.names[0]) | more]})

    async def show(request: Request) -> Response:
        asked = await read_as(request, serving, ShowRequest)
        name = asked.model or asked.name
        if not name:
            raise Problem(400, "give the name of a model", param="model")
        known_name(serving, name)
        return json_response(shown(serving))

    async def tell_version(request: Request) -> Response:
        return json_response({"version": version})

    return [
        Endpoint(path="/api/tags", handler=tags),
        Endpoint(path="/api/ps", handler=loaded),
        Endpoint(path="/api/show", handler=show, method="POST", struct=ShowRequest),
        Endpoint(path="/api/version", handler=tell_version),
    ]
