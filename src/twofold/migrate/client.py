"""A small client of OpenAI's API: one request a connection, streamed, with a deadline that nothing can put off.

Whatever the other end does (no answer, silence, nonsense, an error) is an Answer with a failure, not an exception.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from twofold.errors import SettingsError
from twofold.migrate.answers import Answer, Ask
from twofold.migrate.chunks import Chunks, NonsenseError

MOST_BYTES = 16 * 2**20
MOST_ERROR = 500
"""Characters of an error that are kept."""
CONNECT_S = 10.0
SLACK_S = 5.0
"""The clock of the whole exchange strikes before the one of a single read."""
PATHS = {"chat": "/chat/completions", "completion": "/completions"}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an endpoint is; path ends before /chat/completions."""

    is_https: bool
    host: str
    port: int
    path: str

    @property
    def told(self) -> str:
        """The address without anything secret."""
        return f"{'https' if self.is_https else 'http'}://{self.host}:{self.port}{self.path}"


def read_address(url: str) -> Address:
    """An address as users write it; without a path /v1 is meant. Raises SettingsError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{url!r} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{url!r} is no address; http://HOST:PORT/v1 was expected")
    if parts.username or parts.query:
        raise SettingsError("an address with a user or a query is not taken; give the key with --old-key or --new-key")
    path = parts.path.rstrip("/")
    for ending in PATHS.values():
        path = path.removesuffix(ending)
    is_https = parts.scheme == "https"
    return Address(
        is_https=is_https, host=parts.hostname, port=port or (443 if is_https else 80), path=path or "/v1"
    )  # fmt: skip


class Endpoint:
    """An endpoint and the model asked for. key: sent as a bearer token, never told."""

    def __init__(self, address: Address, model: str | None, key: str | None, timeout_s: float) -> None:
        self.address = address
        self.model = model
        self.key = key
        self.timeout_s = timeout_s

    @property
    def told(self) -> str:
        """Address and model."""
        return f"{self.address.told}, {self.model or 'model not known'}"

    def answer(self, ask: Ask) -> Answer:
        """Ask; see Side."""
        self.model = self.model or self.first_model()
        body = {**ask.body, "model": self.model or "default", "stream": True, "stream_options": {"include_usage": True}}
        found = self.post(PATHS[ask.kind], body)
        if found.failure and "stream_options" in found.failure:
            del body["stream_options"]
            found = self.post(PATHS[ask.kind], body)
        return found

    def first_model(self) -> str | None:
        """The first model the endpoint names; None when it names none."""
        with Exchange(self.address, self.timeout_s) as exchange:
            try:
                response = exchange.send("GET", "/models", self.headers(), None)
                found = json.loads(response.read(MOST_BYTES))["data"][0]["id"]
                return found if isinstance(found, str) else None
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
                return None

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One request and its answer."""
        chunks = Chunks()
        started, failure = time.perf_counter(), None
        with Exchange(self.address, self.timeout_s) as exchange:
            try:
                exchange.connect()
                started = time.perf_counter()
                response = exchange.send("POST", path, self.headers(), json.dumps(body).encode())
                if response.status != 200:
                    failure = f"status {response.status}: {error_of(response.read(MOST_BYTES))}"
                elif "event-stream" in response.headers.get("content-type", ""):
                    for line in lines_of(response):
                        chunks.take_line(line, time.perf_counter() - started)
                        if chunks.is_done:
                            break
                    chunks.check_end()
                else:
                    chunks.take_whole(response.read(MOST_BYTES))
            except NonsenseError as error:
                failure = f"nonsense: {error}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"unreachable: {error or type(error).__name__}"
            if exchange.is_late:
                failure = f"timeout: no complete answer within {self.timeout_s:g} s"
        return chunks.answer(time.perf_counter() - started, failure)


class Exchange:
    """One connection, which is shut when the time is over, whatever is going on then."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.connection = connection_to(address, min(CONNECT_S, timeout_s))
        self.path = address.path
        self.timeout_s = timeout_s
        self.socket: socket.socket | None = None
        self.is_late = False
        self.clock = threading.Timer(timeout_s, self.end)
        self.clock.daemon = True

    def __enter__(self) -> Exchange:
        self.clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock.cancel()
        self.connection.close()
        if self.socket is not None:
            self.socket.close()

    def connect(self) -> None:
        """Open the connection. Raises OSError."""
        self.connection.connect()
        self.socket = self.connection.sock
        self.connection.sock.settimeout(self.timeout_s + SLACK_S)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> http.client.HTTPResponse:
        """Send a request and read the head of its answer. Raises OSError or HTTPException."""
        if self.socket is None:
            self.connect()
        self.connection.request(method, self.path + path, body, dict(headers))
        return self.connection.getresponse()

    def end(self) -> None:
        """The time is over."""
        self.is_late = True
        if self.socket is not None:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                self.is_late = True  # it was closed already


def connection_to(address: Address, timeout_s: float) -> http.client.HTTPConnection:
    """A connection that is not open yet; certificates are checked."""
    if address.is_https:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)


def lines_of(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines as they come, without their ends. Raises NonsenseError for more bytes than an answer has."""
    held, total = b"", 0
    while piece := response.read1(2**16):
        total += len(piece)
        if total > MOST_BYTES:
            raise NonsenseError(f"more than {MOST_BYTES // 2**20} MiB for one answer")
        *lines, held = (held + piece).split(b"\n")
        yield from lines
    if held:
        yield held


def error_of(body: bytes) -> str:
    """What an error says: the message of OpenAI's form, else its first characters."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        error = value.get("error", value)
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        text = " ".join(text.split())
    return text[:MOST_ERROR] or "no text"
