"""Clients of all kinds: those that want an answer, and those that hang up, read slowly or send nonsense."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.client import (
    Answer,
    BadAnswer,
    Body,
    Figures,
    ask,
    post,
    read_head,
    read_pieces,
)

CHAT = "/v1/chat/completions"
KINDS = {"good": 0.7, "hangs up": 0.2, "reads slowly": 0.05, "sends nonsense": 0.05}
SYSTEM = "You answer briefly. " + " ".join(f"Rule {number} is a rule." for number in range(20))
PATIENCE_S = 120
"""A good client that hears nothing for so long counts as lost."""
SMALL_BUFFER = 4096
"""Of a slow reader's socket: what it does not read stays with the server."""
TRUTHS = 400
"""Answers kept to be asked for again."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the server answered to a request under load."""

    body: Body
    text: str
    answer_tokens: int


@dataclass
class Guestbook:
    """What all clients saw. faults: what should never have happened, in words."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    truths: list[Truth] = field(default_factory=list)
    tokens: int = 0

    def welcome(self, body: Body, answer: Answer, request_id: str, source: random.Random) -> str:
        """Look into a good client's answer; what became of it."""
        try:
            found = answer.read()
        except BadAnswer as error:
            self.faults.append(f"a good stream was lost: {error}")
            return "lost"
        self.faults += wrong_in(answer, found, body, request_id)
        self.tokens += found.answer_tokens
        self.first_s.append(found.first_s)
        self.gaps_s += found.gaps_s
        truth = Truth(body=body, text=found.text, answer_tokens=found.answer_tokens)
        if len(self.truths) < TRUTHS:
            self.truths.append(truth)
        else:  # any answer of the whole time is as likely to be asked for again
            self.truths[source.randrange(TRUTHS)] = truth
        return "whole"


def wrong_in(answer: Answer, found: Figures, body: Body, request_id: str) -> list[str]:
    """What a whole answer says that it should not, or the other way round."""
    faults = []
    if answer.headers.get("x-request-id") != request_id:
        faults.append(f"an answer has the request id {answer.headers.get('x-request-id')!r}, not {request_id!r}")
    ids = {json.loads(data).get("id") for _, data in answer.events}
    if len(ids) != 1:
        faults.append(f"the chunks of one stream have {len(ids)} ids")
    if body.get("ignore_eos") and found.answer_tokens != body["max_tokens"]:
        faults.append(f"an answer has {found.answer_tokens} tokens; {body['max_tokens']} were asked for")
    return faults


def good_body(source: random.Random) -> Body:
    """A request whose answer can be had again: greedy, or with a seed, or held to JSON."""
    system = SYSTEM if source.random() < 0.6 else f"Note {source.randrange(10**9)}. {SYSTEM[: source.randrange(400)]}"
    question = f"What is {source.randrange(10**6)}?"
    body: Body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": source.randrange(20, 120),
        "seed": source.randrange(2**31),
    }
    ways: list[Body] = [
        {"temperature": 0.0, "ignore_eos": True},
        {"temperature": 0.8, "ignore_eos": True},
        {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.1, "ignore_eos": True},
        {"temperature": 0.8, "response_format": {"type": "json_object"}},
    ]
    return body | source.choice(ways)


async def good(port: int, source: random.Random, book: Guestbook) -> str:
    """Ask and read all of it."""
    body, request_id = good_body(source), f"good-{source.randrange(2**62)}"
    answer = Answer()
    asking = asyncio.ensure_future(ask(port, body, CHAT, into=answer, request_id=request_id))
    heard = -1
    while not asking.done() and len(answer.events) > heard:
        heard = len(answer.events)
        await asyncio.wait({asking}, timeout=PATIENCE_S)
    if not asking.done():
        asking.cancel()
        book.faults.append(f"a good stream stood still for {PATIENCE_S} s after {heard} events")
        return "lost"
    try:
        await asking
    except BadAnswer as error:
        if "status 429" in str(error):
            return "429"
        book.faults.append(f"a good request failed: {error}")
        return "failed"
    return book.welcome(body, answer, request_id, source)


async def hang_up(port: int, source: random.Random) -> str:
    """Leave in one of five phases, politely (FIN) or not (RST)."""
    phase = source.choice(["in the body", "at once", "in the prompt", "in the answer", "half"])
    body = good_body(source)
    if phase == "in the prompt":
        body["messages"][0]["content"] = f"{source.randrange(10**9)} " + SYSTEM * 12
    data = post(CHAT, json.dumps(body).encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data[: len(data) // 2] if phase == "in the body" else data)
        await writer.drain()
        if phase in ("in the body", "in the prompt"):
            await asyncio.sleep(source.random() / 10)
        if phase == "half":
            writer.write_eof()
        if phase in ("in the answer", "half"):
            await read_some(reader, source.randrange(1, 30))
        return phase
    finally:
        leave(writer, is_rude=source.random() < 0.5)


async def read_some(reader: asyncio.StreamReader, events: int) -> None:
    """Read the head and so many lines with data, or to the end."""
    while events and (line := await reader.readline()):
        events -= line.startswith(b"data: ")


def leave(writer: asyncio.StreamWriter, *, is_rude: bool) -> None:
    """Close; a rude client resets the connection."""
    if is_rude:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def read_slowly(port: int, source: random.Random, end: float) -> str:
    """A long answer with many log-probabilities, of which some thousand bytes a second are read until `end`.

    The small buffers fill within a second, so the server has to hold the rest, and must hold it for this client only.
    """
    body = good_body(source) | {"max_tokens": 1500, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    body.pop("response_format", None)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, post(CHAT, json.dumps(body).encode()))
        first = await loop.sock_recv(connection, 1024)
        while first and loop.time() < end:
            await asyncio.sleep(0.25)
            if not await loop.sock_recv(connection, 1024):
                return "ended by the server"
        return first.split(b" ")[1].decode() if first else "closed"
    finally:
        connection.close()


def nonsense(source: random.Random) -> tuple[str, bytes]:
    """A name and what is sent."""
    deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = {
        "unknown role": b'{"messages": [{"role": "king", "content": "x"}]}',
        "unknown field": b'{"messages": [], "max_tokns": 5}',
        "no JSON": b'{"messages": [',
        "no UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        "deep": deep,
        "wrong types": b'{"messages": "hello", "max_tokens": -1}',
        "too long": json.dumps({"messages": [{"role": "user", "content": "word " * 100_000}]}).encode(),
    }
    heads = {
        "not HTTP": source.randbytes(200) + b"\r\n\r\n",
        "negative length": b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        "wrong type": post(CHAT, b"{}").replace(b"application/json", b"text/plain"),
        "unknown route": post("/v1/nothing", b"{}"),
    }
    sent = {name: post(CHAT, body) for name, body in bodies.items()} | heads
    name = source.choice(sorted(sent))
    return name, sent[name]


async def send_nonsense(port: int, source: random.Random, book: Guestbook) -> str:
    """Must be refused with a status of 400 to 499, or by closing what is not HTTP."""
    name, data = nonsense(source)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            status, headers = await read_head(reader)
            said = b"".join([
                piece async for piece in read_pieces(reader, headers)
            ])  # fmt: skip
    except (BadAnswer, ConnectionError, TimeoutError) as error:
        if name != "not HTTP":
            book.faults.append(f"{name} was not answered: {error!r}")
        return f"{name}: closed"
    finally:
        writer.close()
    if not 400 <= status < 500:
        book.faults.append(f"{name} was answered with {status}: {said[:200]!r}")
    return f"{name}: {status}"


async def guest(port: int, end: float, source: random.Random, book: Guestbook) -> None:
    """One connection after the other until the loop's time is `end`."""
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        kind = source.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            book.outcomes[f"{kind}: {await visit(kind, port, end, source, book)}"] += 1
        except OSError as error:
            book.outcomes[f"{kind}: {type(error).__name__}"] += 1
            if kind == "good":
                book.faults.append(f"a good client met {error!r}")


async def visit(kind: str, port: int, end: float, source: random.Random, book: Guestbook) -> str:
    """One connection; what became of it."""
    if kind == "good":
        return await good(port, source, book)
    if kind == "hangs up":
        return await hang_up(port, source)
    if kind == "reads slowly":
        return await read_slowly(port, source, min(end, asyncio.get_running_loop().time() + 30))
    return await send_nonsense(port, source, book)


async def load(port: int, streams: int, seconds: float, seed: int) -> Guestbook:
    """So many guests at once, each with a random source of its own."""
    book = Guestbook()
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(guest(port, end, random.Random(f"{seed} {number}"), book) for number in range(streams)))
    return book


async def ask_again(port: int, truths: list[Truth]) -> list[str]:
    """The same requests one at a time and with nothing known of their prompts; what differs, in words."""
    faults = []
    for number, truth in enumerate(truths):
        found = (await ask(port, truth.body | {"cache_salt": f"alone {number}"}, CHAT)).read()
        if (found.text, found.answer_tokens) != (truth.text, truth.answer_tokens):
            faults.append(f"alone, {truth.body} gives {found.text!r}; under load it gave {truth.text!r}")
    return faults


def describe(faults: list[str], most: int = 20) -> list[Any]:
    """The first faults, and how many there are beyond."""
    return faults[:most] + ([f"and {len(faults) - most} more"] if len(faults) > most else [])
