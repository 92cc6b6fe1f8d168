"""Asks a server that speaks OpenAI's API, with the client that measures (bench/client.py) and a deadline for the whole
answer that nothing can put off.

Whatever the other end does (no answer, silence, nonsense, an error) is an Answer with a failure, not an exception.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from twofold.bench import client
from twofold.errors import SettingsError
from twofold.migrate.answers import Answer, Ask
from twofold.migrate.chunks import Chunks, NonsenseError

MOST_BYTES = 16 * 2**20
MOST_ERROR = 500
"""Characters of an error that are kept."""
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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_https else 'http'}://{host}:{self.port}{self.path}"


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
        return asyncio.run(self.first_named())

    async def first_named(self) -> str | None:
        """See first_model."""
        try:
            async with asyncio.timeout(self.timeout_s):
                _, body = await client.get(self.server, self.address.path + "/models")
            found = json.loads(body)["data"][0]["id"]
            return found if isinstance(found, str) else None
        except (TimeoutError, client.BadAnswer, ValueError, LookupError, TypeError, RecursionError):
            return None

    @property
    def server(self) -> client.Endpoint:
        """The same for the client; its own patience never ends before the deadline."""
        return client.Endpoint(self.address.told, self.key or "", stall_s=2 * self.timeout_s)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """One request and its answer."""
        return asyncio.run(self.exchange(self.address.path + path, json.dumps(body).encode()))

    async def exchange(self, path: str, body: bytes) -> Answer:
        """See post; times count from when the request is sent over an open connection."""
        chunks, failure = Chunks(), None
        server, started = self.server, time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s), client.Connected(server) as (reader, writer):
                started = time.perf_counter()
                writer.write(server.request("POST", path, body))
                status, headers = await client.read_head(server, reader)
                pieces = client.read_pieces(server, reader, headers)
                if status != 200:
                    failure = f"status {status}: {error_of(b''.join([piece async for piece in limited(pieces)]))}"
                elif "event-stream" in headers.get("content-type", ""):
                    await take_lines(chunks, limited(pieces), started)
                else:
                    chunks.take_whole(b"".join([piece async for piece in limited(pieces)]))
        except NonsenseError as error:
            failure = f"nonsense: {error}"
        except TimeoutError:
            failure = f"timeout: no complete answer within {self.timeout_s:g} s"
        except client.BadAnswer as error:
            failure = f"unreachable: {error}"
        return chunks.answer(time.perf_counter() - started, failure)


async def take_lines(chunks: Chunks, pieces: AsyncIterator[bytes], started: float) -> None:
    """Read a stream to its end. Raises NonsenseError."""
    held = b""
    async for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            chunks.take_line(line, time.perf_counter() - started)
            if chunks.is_done:
                return
    if held:
        chunks.take_line(held, time.perf_counter() - started)
    chunks.check_end()


async def limited(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces as they come. Raises NonsenseError for more bytes than an answer has."""
    total = 0
    async for piece in pieces:
        total += len(piece)
        if total > MOST_BYTES:
            raise NonsenseError(f"more than {MOST_BYTES // 2**20} MiB for one answer")
        yield piece


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
