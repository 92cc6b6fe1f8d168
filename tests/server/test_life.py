"""Keys, limits, clients that leave, overload and the end, against live servers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.server.conftest import Live, started

LONG: Any = {
    "model": "demo", "prompt": "def f(", "max_tokens": 1900, "ignore_eos": True, "temperature": 0, "stream": True,
}  # fmt: skip
SHORT: Any = {"model": "demo", "prompt": "def f(", "max_tokens": 3}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def open_stream(live: Live, body: Any, buffer_bytes: int | None = None) -> socket.socket:
    """A connection that has sent a request and read nothing."""
    parts = urlsplit(live.url)
    connection = socket.socket()
    if buffer_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.connect((parts.hostname, parts.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("# keys\n\nkey-from-file\n")
    with started("--api-key", "key-from-flag", "--api-key-file", str(path)) as server:
        yield server


@pytest.mark.parametrize("route", ["/v1/models", "/version", "/metrics", "/load", "/", "/nothing"])
def test_without_a_key_every_route_but_health_is_closed(locked: Live, route: str) -> None:
    assert httpx.get(locked.url + "/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong-key"}, {"Authorization": "Basic key-from-flag"}):
        answer = httpx.get(locked.url + route, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


def test_every_key_opens_and_keys_from_the_environment_too(locked: Live) -> None:
    for key in ("key-from-flag", "key-from-file"):
        assert locked.client(key).models.list().data[0].id == "demo"
    with pytest.raises(openai.AuthenticationError):
        locked.client("key-from-flag2").models.list()
    with started(TWOFOLD_API_KEY="key-of-one key-of-two") as server:
        assert [bool(server.client(key).models.list().data) for key in ("key-of-one", "key-of-two")] == [True, True]


def test_what_one_key_sent_is_not_known_to_another(locked: Live) -> None:
    prompt = " ".join(str(number) for number in range(100))

    def cached(key: str, salt: str = "") -> int:
        with locked.client(key) as client:
            usage = client.completions.create(
                model="demo", prompt=prompt, max_tokens=1, extra_body={"cache_salt": salt}
            ).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert cached("key-from-flag") == 0
    assert cached("key-from-flag") > 100
    assert cached("key-from-file") == 0
    assert cached("key-from-flag", "mine") == 0


def test_a_foreign_host_or_a_form_cannot_reach_a_local_server(live: Live) -> None:
    assert httpx.get(live.url + "/v1/models", headers={"Host": "evil.example"}).status_code == 403
    answer = httpx.post(live.url + "/v1/completions", content=json.dumps(SHORT), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_a_body_that_is_too_large_or_no_json_is_refused(live: Live) -> None:
    large = httpx.post(live.url + "/tokenize", json={"prompt": "x" * (9 * 2**20)})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff\xfe", b"[]", b"null", b'{"messages":' + b"[" * 100_000, b'{"messages": [{"a":' * 5000):
        answer = httpx.post(live.url + "/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == 400, body[:20]
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_request_id_is_given_or_taken_over(live: Live) -> None:
    assert httpx.get(live.url + "/version", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    given = httpx.get(live.url + "/version", headers={"X-Request-Id": "a b\t<"}).headers["x-request-id"]
    assert len(given) == 32


def test_tokenize_and_detokenize_undo_each_other(live: Live) -> None:
    tokens = httpx.post(live.url + "/tokenize", json={"prompt": "héllo <|eot|>", "add_special_tokens": False}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == 2048
    back = httpx.post(live.url + "/detokenize", json={"tokens": tokens["tokens"]}).json()
    assert back == {"prompt": "héllo <|eot|>"}
    chat = httpx.post(live.url + "/tokenize", json={"messages": [{"role": "user", "content": "Hello!"}]}).json()
    assert chat["count"] > 5


def test_a_client_that_leaves_frees_what_it_held(live: Live) -> None:
    for body in (LONG, {**LONG, "stream": False}):
        connection = open_stream(live, body)
        wait_until(lambda: live.metric("vllm:num_requests_running") == 1)
        connection.close()
        wait_until(lambda: live.metric("vllm:num_requests_running") == 0)
        assert live.metric("vllm:kv_cache_usage_perc") == 0


def test_overload_is_429_and_passes(live: Live) -> None:
    with started("--max-num-seqs", "1", "--max-waiting", "1") as server:
        held = [open_stream(server, LONG) for _ in range(2)]
        wait_until(lambda: httpx.get(server.url + "/load").json()["server_load"] == 2)
        answer = httpx.post(server.url + "/v1/completions", json=SHORT)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "overloaded"
        for connection in held:
            connection.close()
        wait_until(lambda: httpx.post(server.url + "/v1/completions", json=SHORT).status_code == 200)


def test_a_slow_reader_is_cut_and_others_go_on() -> None:
    with started("--max-num-seqs", "4") as server:
        slow = open_stream(server, {**LONG, "n": 4, "logprobs": 20}, buffer_bytes=4096)
        for _ in range(5):
            assert httpx.post(server.url + "/v1/completions", json=SHORT, timeout=60).status_code == 200
        wait_until(lambda: httpx.get(server.url + "/load").json()["server_load"] == 0)
        assert server.metric("vllm:kv_cache_usage_perc") == 0
        slow.close()


def test_sigterm_lets_running_streams_finish_and_refuses_new_requests() -> None:
    with started() as server, contextlib.closing(http.client.HTTPConnection(urlsplit(server.url).netloc)) as waiting:
        assert status(waiting, "GET", "/health") == 200  # a connection from before the end began
        lines: list[str] = []
        with httpx.stream(
            "POST", server.url + "/v1/completions", json={**LONG, "max_tokens": 900}, timeout=60
        ) as answer:
            source = answer.iter_lines()
            lines.append(next(source))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: status(waiting, "GET", "/health") == 503)
            assert status(waiting, "POST", "/v1/completions", SHORT) == 503
            lines += source
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(60) == 0


def status(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> int:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status == 503 and body is not None:
        assert int(answer.headers["Retry-After"]) >= 1
    return answer.status


def test_sigterm_ends_what_outlasts_the_grace() -> None:
    with started("--grace", "0") as server, httpx.stream("POST", server.url + "/v1/completions", json=LONG) as answer:
        source = answer.iter_lines()
        first = next(source)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in source if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]" or json.loads(rest[-1][6:])["error"]["code"] == "shutting_down"
        assert server.process.wait(60) == 0


def test_many_clients_at_once_get_the_answers_they_get_alone(live: Live) -> None:
    def ask(number: int) -> str:
        body = {**SHORT, "prompt": f"value {number} = ", "max_tokens": 12, "seed": number, "temperature": 1.0}
        answer = httpx.post(live.url + "/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200
        text: str = answer.json()["choices"][0]["text"]
        return text

    alone = [ask(number) for number in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == alone


def test_options_about_loading_reach_the_model() -> None:
    with started("--kv-cache-dtype", "int8", "--draft", "demo") as server:
        assert any("keys and values are kept in int8 as asked for" in line for line in server.lines)
        assert httpx.post(server.url + "/v1/completions", json=SHORT, timeout=60).status_code == 200
