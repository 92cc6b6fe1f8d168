"""What fails in a way nobody foresaw tells clients nothing of the inside, whichever API they speak."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from tests.server.conftest import Live
from twofold import LLM
from twofold.cli.generation import Generation
from twofold.cli.serve import build_serving
from twofold.cli.starting import prepare
from twofold.phases import Phases
from twofold.server.access import Gate
from twofold.server.serving import Serving
from twofold.server.settings import ServerSettings

SECRET = "/srv/secret/path"


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    llm = LLM("demo", dtype="w8a8", threads=1)
    facts = prepare(llm, "0", None, Phases())
    found = build_serving(llm, ("demo",), ServerSettings(), Generation(overrides={}), facts, None)
    yield found
    found.runner.close()


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise {"/memory": MemoryError, "/recursion": RecursionError}.get(scope["path"], KeyError)(SECRET)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/memory", "/recursion"])
def test_what_nobody_foresaw_is_a_500_without_a_trace(
    serving: Serving, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(broken, serving, frozenset())

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://localhost") as client:
            return await client.get(path)

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert SECRET not in answer.text
    assert "Error" not in answer.text.replace('"type":"error"', "")
    assert answer.headers["x-request-id"]
    assert json.loads(answer.text)["error"]
    assert SECRET in caplog.text  # it is in the log, under the request's id


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"prompt": "\\ud800", "stop": ["\\udfff"]}',
        b'{"prompt": [' + b"9" * 400 + b"]}",
        b'{"prompt": [-1]}',
        b'{"prompt": [1e400]}',
        b'{"prompt": "x", "temperature": 1e400}',
        b'{"prompt": "x", "seed": 99999999999999999999999999}',
        b'{"prompt": "x", "logit_bias": {"99999999999999999999": 1}}',
        b'{"prompt": "x", "logit_bias": {"\xd9\xa1": 1}}',
        b'{"prompt": "x", "guided_json": "' + b"[" * 50_000 + b'"}',
        b'{"prompt": "x", "guided_regex": "' + b"(a|" * 20_000 + b'"}',
        b'{"prompt": "x", "guided_regex": "(a{1000}){1000}"}',
        b'{"prompt": "x", "guided_grammar": "start: start"}',
        b'{"prompt": "x", "cache_salt": "\\ud800"}',
        b'{"prompt": "x", "model": "\\ud800"}',
        b'{"prompt": "x\\u0000y", "user": "\\u0000"}',
        b'{"messages": [{"role": "user", "content": "x", "a": ' + b'{"b":' * 900 + b"1" + b"}" * 900 + b"}]}",
        b'{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": 1, "tools": 2}}',
        b'{"messages": [{"role": "user", "content": "x"}], "documents": [{"a": "\\udc00"}]}',
    ],
    ids=range(19),
)
def test_hostile_values_are_answered_in_the_apis_shape(live: Live, body: bytes) -> None:
    path = "/v1/chat/completions" if b"messages" in body[:14] else "/v1/completions"
    headers = {"Content-Type": "application/json"}
    sent = body[:-1] + b', "max_tokens": 2}'
    answer = httpx.post(live.url + path, content=sent, headers=headers, timeout=60)
    assert answer.status_code in (200, 400, 404), answer.text
    assert "Traceback" not in answer.text
