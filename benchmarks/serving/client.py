"""A small HTTP client for streamed answers: what arrives is stamped and kept, and looked into afterwards.

A client shares the cores with the server it measures, so it does as little as it can while answers come.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
DATA = b"data: "


class BadAnswer(Exception):
    """An answer that is not what was asked for: an error status, an error event, an end too soon, a wrong count."""


@dataclass
class Answer:
    """One streamed answer. Times are time.perf_counter() seconds; events are the data lines as they came.

    headers: by their names in small letters.
    """

    sent_s: float = 0.0
    events: list[tuple[float, bytes]] = field(default_factory=list)
    is_done: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def read(self) -> Figures:
        """What the events say. Raises BadAnswer for an error among them or an answer that has no end."""
        texts: list[tuple[float, str]] = []
        usage: Body = {}
        for at_s, data in self.events:
            value = json.loads(data)
            if "error" in value:
                raise BadAnswer(f"an error came: {value['error']}")
            usage = value.get("usage") or usage
            text = "".join(text_of(choice) for choice in value.get("choices", ()))
            texts += [(at_s, text)] if text else []
        if not self.is_done or not texts:
            raise BadAnswer(f"the answer was cut off after {len(texts)} pieces of text")
        return Figures(
            first_s=texts[0][0] - self.sent_s,
            gaps_s=tuple(after[0] - before[0] for before, after in itertools.pairwise(texts)),
            end_s=self.events[-1][0],
            text="".join(text for _, text in texts),
            prompt_tokens=usage.get("prompt_tokens", 0),
            answer_tokens=usage.get("completion_tokens", 0),
        )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A whole answer. first_s: from request to first text; gaps_s: between pieces of text; end_s: when it ended."""

    first_s: float
    gaps_s: tuple[float, ...]
    end_s: float
    text: str
    prompt_tokens: int
    answer_tokens: int


def text_of(choice: Body) -> str:
    """The text in one choice of a chunk, of either route."""
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


def post(path: str, body: bytes, request_id: str | None = None) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head += f"X-Request-Id: {request_id}\r\n" if request_id else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises BadAnswer when the connection ends before them."""
    first = (await reader.readline()).split()
    if len(first) < 2:
        raise BadAnswer("the connection was closed without an answer")
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(first[1]), headers


async def read_lines(reader: asyncio.StreamReader, is_chunked: bool) -> AsyncIterator[bytes]:
    """Lines of a body without their ends, whatever pieces it comes in."""
    rest = b""
    async for piece in read_pieces(reader, is_chunked):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def read_pieces(reader: asyncio.StreamReader, is_chunked: bool) -> AsyncIterator[bytes]:
    """A body in pieces. A connection that ends in the middle of one ends the body: the caller misses its last line."""
    try:
        while is_chunked:
            size = int((await reader.readline()).split(b";")[0] or b"0", 16)
            if not size:
                return
            yield (await reader.readexactly(size + 2))[:-2]
    except asyncio.IncompleteReadError:
        return
    while piece := await reader.read(65536):
        yield piece


async def ask(
    port: int,
    body: Body,
    path: str = "/v1/completions",
    into: Answer | None = None,
    request_id: str | None = None,
) -> Answer:
    """Send a request and gather its stream; `into` can be watched meanwhile. Raises BadAnswer and OSError."""
    answer = into or Answer()
    data = post(path, json.dumps(body).encode(), request_id)
    answer.sent_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        status, answer.headers = await read_head(reader)
        is_chunked = answer.headers.get("transfer-encoding") == "chunked"
        if status != 200:
            said = [line async for line in read_lines(reader, is_chunked)]
            raise BadAnswer(f"status {status}: {b' '.join(said).decode(errors='replace')[:300]}")
        async for line in read_lines(reader, is_chunked):
            if line.startswith(DATA + b"[DONE]"):
                answer.is_done = True
                break
            if line.startswith(DATA):
                answer.events.append((time.perf_counter(), line[len(DATA) :]))
        return answer
    finally:
        writer.close()


async def ask_all(port: int, bodies: Sequence[Body], streams: int, path: str = "/v1/completions") -> list[Answer]:
    """Every body once, `streams` at a time: each stream takes the next one when its answer has ended."""
    waiting = list(enumerate(bodies))[::-1]
    answers: dict[int, Answer] = {}

    async def stream() -> None:
        while waiting:
            number, body = waiting.pop()
            answers[number] = await ask(port, body, path)

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(stream())
    return [answers[number] for number in range(len(bodies))]
