"""Bodies in, streams out, and clients that leave in the middle of either."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twofold.server.logs import fields
from twofold.server.problems import Problem, problem_of

log = logging.getLogger("twofold.server")
T = TypeVar("T")


async def read_body(request: Request, most_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises Problem 413 beyond `most_bytes`, 408 when it takes longer than `timeout_s`."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > most_bytes:
                    raise Problem(413, f"the body is larger than {most_bytes} bytes", code="body_too_large")
                parts.append(part)
    except TimeoutError as error:
        raise Problem(408, f"the body did not come within {timeout_s:g} seconds", code="body_timeout") from error
    return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for item in (task, gone):
            item.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Lines(Response):
    """A response that grows; its source must hold one line at least.

    `close` is called when it ends or the client leaves: a source that was never begun cannot clean up after itself.
    """

    def __init__(self, source: AsyncIterator[bytes], media_type: str, close: Callable[[], None]) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.source = source
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send line by line; what fails before the first one is still an ordinary answer."""
        pump = asyncio.ensure_future(self.pump(send))
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            for task in (pump, gone):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pump
            await self.source.aclose()  # type: ignore[attr-defined]
            self.close()

    async def pump(self, send: Send) -> None:
        """Lines of the source to the client."""
        first = await anext(self.source)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for line in self.source:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


async def events(values: AsyncIterator[Any], request_id: str) -> AsyncIterator[bytes]:
    """OpenAI's event stream. What fails after the first event becomes an error event, and the stream ends."""
    source = encoded(values, request_id, event, lambda problem: problem.body, b"data: [DONE]\n\n")
    async with contextlib.aclosing(source):
        async for line in source:
            yield line


async def encoded(
    values: AsyncIterator[Any],
    request_id: str,
    encode: Callable[[Any], bytes],
    shape: Callable[[Problem], Any],
    end: bytes = b"",
) -> AsyncGenerator[bytes]:
    """Each value as bytes, then `end`. What fails after the first one is told in the API's `shape` instead of `end`."""
    count = 0
    try:
        async for value in values:
            count += 1
            yield encode(value)
    except Exception as error:
        if not count:
            raise
        problem = problem_of(error)
        if problem.status >= 500:
            log.exception("failed in its stream", extra=fields(request_id=request_id))
        yield encode(shape(problem))
        return
    finally:
        await values.aclose()  # type: ignore[attr-defined]
    if end:
        yield end
