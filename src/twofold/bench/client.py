"""A client for OpenAI-compatible servers that measures: every piece of a streamed answer is stamped as it arrives.

It shares the cores with the server it measures, so it does as little as it can while answers come: lines are kept with
their time and looked into afterwards. What it costs itself is measured by bench/overhead.py.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from twofold.errors import BenchError

Body = dict[str, Any]
DATA = b"data:"
CONNECT_S = 10.0
MOST_LINE_BYTES = 2**24
MOST_DIGITS = 16
"""Of a content-length that is believed."""


class BadAnswer(BenchError):
    """An answer that is not what was asked for: an error, an end too soon, silence, nonsense."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. url: with or without /v1; key: sent as a bearer token when there is one.

    Raises BenchError for what is no http or https URL.
    """

    url: str
    key: str = ""
    stall_s: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"{self.url!r} is no address of a server; http://HOST:PORT or https://HOST was expected")

    @property
    def host(self) -> str:
        """Where to connect."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Where to connect."""
        return urlsplit(self.url).port or (443 if self.is_secure else 80)

    @property
    def is_secure(self) -> bool:
        """Whether it speaks TLS."""
        return urlsplit(self.url).scheme == "https"

    def path(self, route: str) -> str:
        """The path of a route like chat/completions."""
        base = urlsplit(self.url).path.rstrip("/")
        return f"{base if base.endswith('/v1') else base + '/v1'}/{route}"

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
        """A request as it goes over the wire; each has a connection of its own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{self.port}", "Connection: close"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
        lines += [f"Authorization: Bearer {self.key}"] if self.key else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Answer:
    """One streamed answer. Times are time.perf_counter() seconds; events are the data lines as they came."""

    sent_s: float = 0.0
    events: list[tuple[float, bytes]] = field(default_factory=list)
    is_done: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def pieces(self) -> list[tuple[float, str]]:
        """Texts and when they came. Raises BadAnswer for an error or nonsense among the events."""
        found: list[tuple[float, str]] = []
        for at_s, value in self.values():
            text = "".join(text_of(choice) for choice in value.get("choices") or ())
            found += [(at_s, text)] if text else []
        return found

    def values(self) -> Iterator[tuple[float, Body]]:
        """Events as JSON. Raises BadAnswer for an error or nonsense among them."""
        for at_s, data in self.events:
            value = parsed(data)
            if "error" in value:
                raise BadAnswer(f"an error came in the stream: {json.dumps(value['error'])[:300]}")
            yield at_s, value

    def read(self) -> Reading:
        """What the events say. Raises BadAnswer for an error or nonsense among them, or without an end."""
        texts = self.pieces()
        usage: Body = {}
        finish = ""
        for _, value in self.values():
            usage = value.get("usage") or usage
            for choice in value.get("choices") or ():
                finish = choice.get("finish_reason") or finish
        if not self.is_done and not finish:
            raise BadAnswer(f"the stream broke off after {len(texts)} pieces of text")
        times = [at_s for at_s, _ in texts] or [self.events[-1][0] if self.events else self.sent_s]
        return Reading(
            first_s=times[0] - self.sent_s,
            gaps_s=tuple(after - before for before, after in itertools.pairwise(times)),
            total_s=times[-1] - self.sent_s,
            text="".join(text for _, text in texts),
            prompt_tokens=whole(usage.get("prompt_tokens")),
            answer_tokens=whole(usage.get("completion_tokens")) or len(texts),
            has_usage=bool(usage),
            finish=finish,
        )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A whole answer. first_s: from request to first text; gaps_s: between pieces of text; total_s: to the last one.

    has_usage: whether the server counted the tokens; else the pieces of text were.
    """

    first_s: float
    gaps_s: tuple[float, ...]
    total_s: float
    text: str
    prompt_tokens: int
    answer_tokens: int
    has_usage: bool
    finish: str


def parsed(data: bytes) -> Body:
    """One event. Raises BadAnswer for what is no JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"an event is no JSON ({error}): {data[:100].decode(errors='replace')!r}") from error
    if not isinstance(value, dict):
        raise BadAnswer(f"an event is no JSON object: {data[:100].decode(errors='replace')!r}")
    return value


def text_of(choice: Body) -> str:
    """The text in one choice of a chunk, of either route."""
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def whole(value: object) -> int:
    """A count, 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


async def ask(
    endpoint: Endpoint, route: str, body: Body, into: Answer | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request and gather its stream; `into` can be watched meanwhile.

    Raises BadAnswer, also when the server is not there or falls silent.
    """
    answer = into or Answer()
    data = endpoint.request("POST", endpoint.path(route), json.dumps(body).encode(), headers)
    answer.sent_s = time.perf_counter()
    async with Connected(endpoint) as (reader, writer):
        writer.write(data)
        status, answer.headers = await read_head(endpoint, reader)
        lines = read_lines(endpoint, reader, answer.headers)
        if status != 200:
            said = b" ".join([line async for line in lines]).decode(errors="replace")
            raise BadAnswer(f"{endpoint.url} answered {status}: {said[:300]}")
        async for line in lines:
            if line.startswith(DATA):
                event = line[len(DATA) :].strip()
                if event == b"[DONE]":
                    answer.is_done = True
                    break
                answer.events.append((time.perf_counter(), event))
    return answer


async def get(endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    """Status and body of a GET. Raises BadAnswer."""
    async with Connected(endpoint) as (reader, writer):
        writer.write(endpoint.request("GET", path))
        status, headers = await read_head(endpoint, reader)
        return status, b"\n".join([line async for line in read_lines(endpoint, reader, headers)])


class Connected:
    """A connection for as long as the block runs. Raises BadAnswer when there can be none."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = self.endpoint
        context = ssl.create_default_context() if where.is_secure else None
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, self.writer = await asyncio.open_connection(
                    where.host, where.port, ssl=context, limit=MOST_LINE_BYTES
                )
        except TimeoutError as error:
            raise BadAnswer(f"{where.url} took no connection within {CONNECT_S:g} s") from error
        except OSError as error:
            raise BadAnswer(f"{where.url} cannot be reached: {error.strerror or error}") from error
        return reader, self.writer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.writer:
            self.writer.close()
        if isinstance(error, ConnectionError):
            raise BadAnswer(f"{self.endpoint.url} broke the connection: {error.strerror or error}") from error


async def read_head(endpoint: Endpoint, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises BadAnswer when they do not come, or are none."""
    first = (await line_of(endpoint, reader)).split()
    if len(first) < 2 or not first[0].startswith(b"HTTP/") or not first[1].isdigit():
        raise BadAnswer(f"{endpoint.url} answered with {b' '.join(first)[:80]!r}; HTTP was expected")
    headers = {}
    while line := (await line_of(endpoint, reader)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(first[1]), headers


async def line_of(endpoint: Endpoint, reader: asyncio.StreamReader) -> bytes:
    """The next line. Raises BadAnswer when it does not come in time or has no end."""
    try:
        async with asyncio.timeout(endpoint.stall_s):
            return await reader.readline()
    except TimeoutError as error:
        raise BadAnswer(f"{endpoint.url} said nothing for {endpoint.stall_s:g} s") from error
    except ValueError as error:
        raise BadAnswer(f"{endpoint.url} sent a line of more than {MOST_LINE_BYTES} bytes") from error


async def read_lines(
    endpoint: Endpoint, reader: asyncio.StreamReader, headers: Mapping[str, str]
) -> AsyncIterator[bytes]:
    """Lines of a body without their ends, whatever pieces it comes in. A body that breaks off just ends."""
    rest = b""
    async for piece in read_pieces(endpoint, reader, headers):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
    if rest:
        yield rest


async def read_pieces(
    endpoint: Endpoint, reader: asyncio.StreamReader, headers: Mapping[str, str]
) -> AsyncIterator[bytes]:
    """A body in pieces as they arrive: chunks, or so many bytes as the headers say, else until the connection ends.

    Raises BadAnswer when nothing comes for too long, or sizes are none.
    """
    is_chunked, length = "chunked" in headers.get("transfer-encoding", ""), headers.get("content-length", "")
    left = int(length) if length.isdecimal() and len(length) < MOST_DIGITS else None
    while True:
        try:
            async with asyncio.timeout(endpoint.stall_s):
                if is_chunked:
                    size = int((await reader.readline()).split(b";")[0] or b"0", 16)
                    piece = (await reader.readexactly(size + 2))[:-2] if 0 < size <= MOST_LINE_BYTES else b""
                else:
                    piece = await reader.read(65536 if left is None else min(left, 65536))
        except TimeoutError as error:
            raise BadAnswer(
                f"{endpoint.url} said nothing for {endpoint.stall_s:g} s in the middle of an answer"
            ) from error
        except asyncio.IncompleteReadError:
            return
        except ValueError as error:
            raise BadAnswer(f"{endpoint.url} sent a piece whose size is none") from error
        if not piece:
            return
        left = None if left is None else left - len(piece)
        yield piece


async def ask_all(endpoint: Endpoint, route: str, bodies: Sequence[Body], streams: int) -> list[Answer | BadAnswer]:
    """Every body once, `streams` at a time: each stream takes the next one when its answer has ended."""
    waiting = list(enumerate(bodies))[::-1]
    found: dict[int, Answer | BadAnswer] = {}

    async def stream() -> None:
        while waiting:
            number, body = waiting.pop()
            try:
                found[number] = await ask(endpoint, route, body)
            except BadAnswer as error:
                found[number] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(streams, len(bodies))):
            group.create_task(stream())
    return [found[number] for number in range(len(bodies))]
