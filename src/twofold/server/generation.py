"""What all routes that generate do, whichever API they speak: a request in, an answer or a stream of lines out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from twofold.errors import InvalidSampling
from twofold.server.access import check_kind, json_response
from twofold.server.exchange import Lines, events, read_body, unless_gone
from twofold.server.problems import Problem, problem_of
from twofold.server.schema import decode
from twofold.server.serving import Ask, Job, Serving

Json = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]
T = TypeVar("T")


class Asked(Protocol):
    """A decoded request. streams: whether its answer comes piece by piece."""

    @property
    def streams(self) -> bool:
        """See above."""


S = TypeVar("S", bound=Asked)


@dataclass(frozen=True, kw_only=True)
class Api(Generic[S]):
    """One kind of request and its answers.

    read: the Ask in it, worked out beside the event loop; raises Problem and what encoding a prompt raises.
    chunks: the pieces of a streamed answer. body: a whole answer. lines: pieces as bytes, and what is said when one
    fails after the first; the text is the request's id, for the log. names: what this API calls fields that errors name
    in OpenAI's words.
    """

    struct: type[S]
    read: Callable[[S, Serving], Ask]
    chunks: Callable[[Job, S], AsyncIterator[Json]]
    body: Callable[[Job, S], Coroutine[Any, Any, Json]]
    lines: Callable[[AsyncIterator[Json], str], AsyncIterator[bytes]] = events
    media_type: str = "text/event-stream"
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route of the server. struct: what the body of a POST must be."""

    path: str
    handler: Handler
    method: str = "GET"
    struct: type[Struct] | None = None


async def read_as(request: Request, serving: Serving, kind: type[T]) -> T:
    """The request's body as `kind`. Raises Problem 400, 408, 413 or 415."""
    check_kind(request.url.path, request.headers)
    limits = serving.settings
    return decode(await read_body(request, limits.max_body_bytes, limits.body_timeout_s), kind)


async def generate(request: Request, serving: Serving, api: Api[S], asked: S) -> Response:
    """The answer to a decoded request; its client may leave at any time. Raises what Api.read and Job raise."""
    try:
        job = await begin(serving, api, asked, request.state.key)
    except (Problem, InvalidSampling) as error:
        raise problem_of(error).renamed(api.names) from error
    request.state.job = job
    if asked.streams:
        lines = api.lines(api.chunks(job, asked), request.state.request_id)
        return Lines(lines, api.media_type, job.stream.cancel)
    try:
        return json_response(await unless_gone(request, api.body(job, asked)))
    finally:
        job.stream.cancel()


async def begin(serving: Serving, api: Api[S], asked: S, key: str) -> Job:
    """The job of a request whose known prefixes are shared under this key only."""
    ask = await run_in_threadpool(api.read, asked, serving)
    if ask.grammar is not None:
        ask = replace(ask, constraint=await serving.grammars.compile(ask.grammar))
    owner = key.encode()
    session = replace(ask.session, owner=key) if ask.session else None
    return Job(serving, replace(ask, salt=owner + b"/" + ask.salt, owner=owner, session=session))


def generating(path: str, serving: Serving, api: Api[Any]) -> Endpoint:
    """The endpoint that answers requests of an API."""

    async def handler(request: Request) -> Response:
        return await generate(request, serving, api, await read_as(request, serving, api.struct))

    return Endpoint(path=path, handler=handler, method="POST", struct=api.struct)
