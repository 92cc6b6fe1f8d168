"""Whoever leaves, and whenever: what was begun for a client is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from twofold.server.exchange import Lines, events, read_body, unless_gone
from twofold.server.problems import Problem

SCOPE: Any = {"type": "http", "method": "POST", "path": "/", "headers": []}


async def lines(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield str(number).encode()
        await asyncio.sleep(0)


async def leaves() -> Any:
    return {"type": "http.disconnect"}


async def stays() -> Any:
    await asyncio.Event().wait()


def test_a_stream_is_closed_when_it_ends_and_when_its_client_leaves_at_once() -> None:
    async def main(receive: Any) -> tuple[list[Any], int]:
        sent: list[Any] = []
        closed: list[bool] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await Lines(lines(3), "text/plain", lambda: closed.append(True))(SCOPE, receive, send)
        return sent, len(closed)

    sent, closed = asyncio.run(main(stays))
    assert b"".join(message.get("body", b"") for message in sent) == b"012"
    assert closed == 1
    assert asyncio.run(main(leaves))[1] == 1


def test_work_is_cancelled_when_its_client_leaves() -> None:
    async def main(receive: Any) -> str:
        async def work() -> str:
            await asyncio.sleep(0)
            return "done"

        return await unless_gone(Request(SCOPE, receive), work())

    assert asyncio.run(main(stays)) == "done"

    async def forever() -> None:
        work = asyncio.Event().wait()
        with pytest.raises(ClientDisconnect):
            await unless_gone(Request(SCOPE, leaves), work)

    asyncio.run(forever())


def test_a_failure_in_a_stream_is_an_event_and_one_before_it_an_answer() -> None:
    async def fails(after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise Problem(500, "broken")

    async def main(after: int) -> list[bytes]:
        return [line async for line in events(fails(after), "id")]

    assert asyncio.run(main(1))[0] == b"data: 0\n\n"
    assert b'"message":"broken"' in asyncio.run(main(1))[1]
    assert len(asyncio.run(main(1))) == 2
    with pytest.raises(Problem):
        asyncio.run(main(0))


def test_a_body_that_never_comes_is_a_408() -> None:
    async def main() -> None:
        with pytest.raises(Problem) as caught:
            await read_body(Request(SCOPE, stays), 100, timeout_s=0.01)
        assert caught.value.status == 408

    asyncio.run(main())
