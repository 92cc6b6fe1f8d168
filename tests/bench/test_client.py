"""The measuring client reads every shape of a stream, and tells what is wrong with servers that lie, stall or break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from twofold.bench.client import Answer, BadAnswer, Endpoint, ask, ask_all, get
from twofold.errors import BenchError

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
PLAIN = HEAD + b"Connection: close\r\n\r\n"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def word(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"


def against(script: Write | bytes, stall_s: float = 5.0) -> Answer:
    """The client's answer from a server that reads a request and then does this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if isinstance(script, bytes):
                writer.write(script)
            else:
                await script(writer)
        finally:
            writer.close()

    async def main() -> Answer:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                return await ask(Endpoint(f"http://127.0.0.1:{port}", stall_s=stall_s), "chat/completions", {})
            finally:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                await asyncio.gather(*others, return_exceptions=True)

    return asyncio.run(main())


def test_times_tokens_and_text_of_a_stream() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN + word("a"))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(word(" b") + USAGE + DONE)

    found = against(script).read()
    assert (found.text, found.prompt_tokens, found.answer_tokens, found.has_usage) == ("a b", 7, 2, True)
    assert 0 < found.first_s < found.total_s
    assert found.gaps_s == (pytest.approx(found.total_s - found.first_s),)


def test_chunks_may_be_cut_anywhere() -> None:
    body = word("ä") + word("ö") + USAGE + DONE
    for size in (1, 7, 1000):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        found = against(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data).read()
        assert (found.text, found.answer_tokens) == ("äö", 2)


def test_without_usage_pieces_are_counted() -> None:
    found = against(PLAIN + word("a") + word("b") + word("c") + DONE).read()
    assert (found.answer_tokens, found.has_usage) == (3, False)


@pytest.mark.parametrize(("script", "said"), [
    (b"", r"answered with b''; HTTP was expected"),
    (b"SSH-2.0-OpenSSH\r\n", "HTTP was expected"),
    (b"HTTP/1.1 503 Busy\r\n\r\ntry later", "answered 503: try later"),
    (PLAIN + word("a"), "broke off after 1 pieces"),
    (PLAIN, "broke off after 0 pieces"),
    (PLAIN + word("a") + b"data: {nonsense\n\n" + DONE, "an event is no JSON"),
    (PLAIN + b"data: [1]\n\n" + DONE, "no JSON object"),
    (PLAIN + word("a") + event({"error": {"message": "out of memory"}}), "out of memory"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "a piece whose size is none"),
])  # fmt: skip
def test_what_is_wrong_with_an_answer_is_said(script: bytes, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        against(script).read()


def test_a_server_that_falls_silent_is_left() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN + word("a"))
        await writer.drain()
        await asyncio.sleep(0.5)

    with pytest.raises(BadAnswer, match=r"said nothing for 0\.2 s in the middle"):
        against(silent, stall_s=0.2)

    async def deaf(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)

    with pytest.raises(BadAnswer, match=r"said nothing for 0\.2 s"):
        against(deaf, stall_s=0.2)


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(BadAnswer, match="cannot be reached"):
        asyncio.run(ask(Endpoint("http://127.0.0.1:9"), "completions", {}))
    with pytest.raises(BadAnswer, match="cannot be reached"):
        asyncio.run(get(Endpoint("https://127.0.0.1:9"), "/v1/models"))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "file:///etc/passwd"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(BenchError, match="no address of a server"):
        Endpoint(url)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_may_end_in_v1_or_not(url: str) -> None:
    assert Endpoint(url).path("chat/completions") == "/v1/chat/completions"
    assert Endpoint("https://h/api").path("models") == "/api/v1/models"


def test_as_many_requests_run_at_once_as_asked_for_and_answers_keep_their_order() -> None:
    busy = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        number = json.loads(await reader.readexactly(length))["number"]
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01 * (number % 3))
        busy -= 1
        writer.write(PLAIN + word(str(number)) + (b"" if number == 4 else DONE))
        writer.close()

    async def main() -> list[Answer | BadAnswer]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            return await ask_all(endpoint, "completions", [{"number": number} for number in range(10)], 3)

    answers = asyncio.run(main())
    assert most == 3
    for number, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        if number != 4:
            assert answer.read().text == str(number)
