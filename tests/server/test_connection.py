"""Clients that send slowly, rest, send too much or read nothing, on real sockets against a live server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.conftest import Live, started
from tests.server.test_life import wait_until

GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def hasty() -> Iterator[Live]:
    with started("--header-timeout", "1", "--idle-timeout", "1.5") as server:
        yield server


def connect(live: Live) -> socket.socket:
    parts = urlsplit(live.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes; the test's own timeout ends it otherwise."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def read_answer(source: BinaryIO) -> int:
    """Status of one answer that has a Content-Length, read to its end."""
    status, size = int(source.readline().split()[1]), 0
    while (line := source.readline()) != b"\r\n":
        assert line, "closed"
        if line.lower().startswith(b"content-length"):
            size = int(line.split(b":")[1])
    source.read(size)
    return status


def test_a_connection_that_sends_nothing_is_closed(hasty: Live) -> None:
    with connect(hasty) as silent:
        assert read_all(silent) == b""


def test_a_head_that_comes_drop_by_drop_is_cut_at_its_deadline(hasty: Live) -> None:
    with connect(hasty) as slow:
        start = time.monotonic()
        slow.sendall(b"GET /version HTTP/1.1\r\n")
        slow.settimeout(0.05)
        answer = b""
        while not answer:
            try:
                slow.sendall(b"X-A: b\r\n")
                answer = slow.recv(4096)
            except TimeoutError:
                assert time.monotonic() - start < 20, "drops keep it open"
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "header_timeout"


def test_a_second_request_has_its_deadline_too(hasty: Live) -> None:
    with connect(hasty) as client:
        client.sendall(GET)
        assert read_answer(client.makefile("rb")) == 200
        client.sendall(GET[:-2])
        assert b" 408 " in read_all(client)


def test_line_ends_between_requests_do_not_keep_a_connection(hasty: Live) -> None:
    with connect(hasty) as client:
        client.sendall(GET)
        assert read_answer(client.makefile("rb")) == 200
        start = time.monotonic()
        client.settimeout(0.2)
        while True:
            try:
                client.sendall(b"\r\n")
                if client.recv(4096) == b"":
                    break
            except TimeoutError:
                assert time.monotonic() - start < 20, "line ends keep it open"
            except OSError:
                break


def test_a_body_that_goes_on_after_its_answer_is_cut(hasty: Live) -> None:
    with connect(hasty) as client:
        client.sendall(POST.replace(b"/tokenize", b"/nothing") + b"Content-Length: 1000000\r\n\r\n{")
        assert read_answer(client.makefile("rb")) == 404
        assert read_all(client) == b""


def test_requests_one_after_the_other_and_at_once_are_answered_on_one_connection(live: Live) -> None:
    body = json.dumps({"prompt": "x" * 300_000}).encode()
    with connect(live) as client, client.makefile("rb") as source:
        client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + GET + GET[:20])
        assert read_answer(source) == 200
        assert read_answer(source) == 200
        client.sendall(GET[20:])
        assert read_answer(source) == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /version HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000,
        b"GET /version HTTP/1.1\r\nX-A: " + b"b" * 500_000,
        b"GET /" + b"v" * 500_000,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: b\r\n" * 20_000,
    ],
    ids=["many headers", "a long header", "a long address", "headers after the body"],
)
def test_a_head_that_is_too_large_is_refused(hasty: Live, head: bytes) -> None:
    with connect(hasty) as client:
        try:
            client.sendall(head)
        except OSError:
            return  # closed already
        answer = read_all(client)
        assert b" 431 " in answer or (answer == b"" and head.startswith(POST))  # inside a request there is no answer


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01", b"HELO you\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n"]
)
def test_what_is_no_http_is_a_400_in_our_shape(hasty: Live, data: bytes) -> None:
    with connect(hasty) as client:
        client.sendall(data)
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_connections_are_counted_and_freed() -> None:
    with started("--max-connections", "3") as server:
        held = [connect(server) for _ in range(3)]
        for connection in held:
            connection.sendall(GET)
            assert read_answer(connection.makefile("rb")) == 200
        with connect(server) as one_more:
            answer = read_all(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer.lower()
        for connection in held:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        wait_until(lambda: httpx.get(server.url + "/version").status_code == 200)


def test_a_client_that_reads_nothing_is_cut(hasty: Live) -> None:
    body = json.dumps({"prompt": "word " * 600_000}).encode()
    with connect(hasty) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        end = time.monotonic() + 30
        while True:
            try:
                deaf.send(b"x")
            except OSError:
                break
            assert time.monotonic() < end, "it is still open"
            time.sleep(0.1)


@pytest.mark.parametrize(("limits", "passes"), [((300, 400), True), ((280, 280), False)])
def test_more_connections_than_files_are_allowed_or_refused_at_once(limits: tuple[int, int], passes: bool) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "from twofold.server.run import make_room; make_room(100); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if passes:
        assert ended.stdout == "356\n"
    else:
        assert "Lower --max-connections to 24" in ended.stderr
