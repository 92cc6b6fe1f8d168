"""One connection of a client, held to its time: heads must come, idle ones end, answers must be read.

uvicorn waits for ever for the head of a request and for a reader who does not read; its parser takes heads of any size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from twofold.server.problems import Problem
from twofold.server.settings import ServerSettings


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with deadlines, of which one at most runs at any time.

    - from the opening, and from the first byte of every further request, its head has `header_timeout_s`;
    - between an answer and the next request a connection may rest `idle_timeout_s`; so long, too, may a reader stop;
    - what still comes of a request that was answered early is thrown away for `header_timeout_s`: to close at once
      would take the answer from the client.
    While a request is worked on no deadline runs: its body has `body_timeout_s`, see exchange.read_body.
    """

    def __init__(self, settings: ServerSettings, on_lost: Callable[[], None], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.settings = settings
        self._on_lost = on_lost
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._is_fresh = True
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._header_bytes = 0
        self._refusal = Problem(400, "this is no HTTP request", code="invalid_http")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request must begin, and its head come."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No deadline outlives its connection."""
        super().connection_lost(exc)
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse; a head that is unfinished after its most bytes is refused."""
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.max_header_bytes:
                self.refuse(self._head_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._in_body, self._head_bytes, self._header_bytes = True, False, 0, 0
        if not self._is_fresh and not self._is_working():
            self._expect_head()
        self._is_fresh = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Also those that come after a chunked body, which are of no use but fill the memory."""
        super().on_header(name, value)
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self.settings.max_header_bytes:
            self._refusal = self._head_too_large()
            raise ValueError("the head is too large")  # the parser stops and `send_400_response` is called

    def on_headers_complete(self) -> None:
        """The head is whole; the request begins."""
        if len(self.url) > self.settings.max_header_bytes:
            self._refusal = self._head_too_large()
            raise ValueError("the address is too long")
        self._in_head, self._in_body = False, True
        self._cancel()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        self._in_body = False
        if not self._is_working():
            self._set(self.settings.idle_timeout_s, self.end)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one."""
        super().on_response_complete()
        if self._is_working():
            return
        if self._in_head:
            self._expect_head()
        else:
            limits = self.settings
            self._set(limits.header_timeout_s if self._in_body else limits.idle_timeout_s, self.end)

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.settings.idle_timeout_s, self.end)

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what cannot be parsed."""
        self.refuse(self._refusal)

    def refuse(self, problem: Problem) -> None:
        """Answer and close; inside an answer, only close."""
        if not self._is_working():
            self.transport.write(raw_answer(problem))
        self.transport.close()
        self._set(self.settings.header_timeout_s, self.end)

    def end(self) -> None:
        """Close at once, also when the client reads nothing."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._set(self.settings.header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._in_head:
            limit = self.settings.header_timeout_s
            self.refuse(Problem(408, f"the head did not come within {limit:g} seconds", code="header_timeout"))
        else:
            self.end()

    def _head_too_large(self) -> Problem:
        return Problem(
            431, f"the head of the request is larger than {self.settings.max_header_bytes} bytes", code="head_too_large"
        )

    def _set(self, seconds: float, then: Callable[[], None]) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, then)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def raw_answer(problem: Problem) -> bytes:
    """A whole answer for a connection that ends with it."""
    body = msgspec.json.encode(problem.body)
    headers = {
        "content-type": "application/json", "content-length": str(len(body)), "connection": "close", **problem.headers,
    }  # fmt: skip
    lines = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
