"""The measuring client of `twofold prove` for servers on this machine, with answers that must be whole.

How requests go out and streams come in, and what a time is taken from, is twofold.bench.client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from twofold.bench import client
from twofold.bench.client import BadAnswer, Body, Endpoint

STALL_S = 600.0
"""Longer than any server that is measured may think."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A whole answer. first_s: from request to first text; gaps_s: between pieces of text; end_s: when it ended."""

    first_s: float
    gaps_s: tuple[float, ...]
    end_s: float
    text: str
    prompt_tokens: int
    answer_tokens: int


class Answer(client.Answer):
    """One streamed answer, see twofold.bench.client."""

    def read(self) -> Figures:  # type: ignore[override]
        """What the events say. Raises BadAnswer for an error among them or an answer that is not whole."""
        pieces = self.pieces()
        if not self.is_done or not pieces:
            raise BadAnswer(f"the answer was cut off after {len(pieces)} pieces of text")
        found = super().read()
        return Figures(
            first_s=found.first_s,
            gaps_s=found.gaps_s,
            end_s=self.events[-1][0],
            text=found.text,
            prompt_tokens=found.prompt_tokens,
            answer_tokens=found.answer_tokens if found.has_usage else 0,
        )


def here(port: int) -> Endpoint:
    """A server of this machine."""
    return Endpoint(f"http://127.0.0.1:{port}", stall_s=STALL_S)


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    return here(80).request("POST", path, body)


def named(request_id: str | None) -> dict[str, str]:
    """The header that names a request."""
    return {"X-Request-Id": request_id} if request_id else {}


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises BadAnswer when the connection ends before them."""
    return await client.read_head(here(80), reader)


def read_lines(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """Lines of a body without their ends, whatever pieces it comes in."""
    return client.read_lines(here(80), reader, headers)


def read_pieces(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    """A body in pieces."""
    return client.read_pieces(here(80), reader, headers)


async def ask(
    port: int,
    body: Body,
    path: str = "/v1/completions",
    into: Answer | None = None,
    request_id: str | None = None,
) -> Answer:
    """Send a request and gather its stream; `into` can be watched meanwhile. Raises BadAnswer and OSError."""
    answer = into or Answer()
    try:
        await client.ask(here(port), path.removeprefix("/v1/"), body, answer, named(request_id))
    except BadAnswer as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    return answer


async def ask_all(port: int, bodies: Sequence[Body], streams: int, path: str = "/v1/completions") -> list[Answer]:
    """Every body once, `streams` at a time; unlike the client's own, the first bad answer ends it."""
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
