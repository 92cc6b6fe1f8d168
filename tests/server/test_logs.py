"""Log lines: their two forms, and what a live server writes about each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import Live, started
from twofold.server.logs import JsonForm, TextForm, fields


def record(message: str, *, error: bool = False, **values: Any) -> logging.LogRecord:
    problem = None
    if error:
        try:
            raise ValueError("broken")
        except ValueError:
            problem = sys.exc_info()
    made = logging.LogRecord("twofold.server", logging.INFO, "file", 1, message, (), problem)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    made.__dict__.update(fields(**values))
    return made


def test_a_line_of_text_holds_its_fields() -> None:
    line = TextForm().format(record("request", status=200, seconds=0.12345, route="/v1", reason="a b", key=None))
    start = "2023-11-14T22:13:20.250Z INFO twofold.server request"
    assert line == start + ' status=200 seconds=0.1235 route=/v1 reason="a b"'


def test_a_line_of_json_holds_its_fields_and_the_traceback() -> None:
    line = JsonForm().format(record("failed", error=True, request_id="r1"))
    assert "\n" not in line
    told = json.loads(line)
    assert {name: told[name] for name in ("time", "level", "logger", "message", "request_id")} == {
        "time": "2023-11-14T22:13:20.250Z", "level": "info", "logger": "twofold.server", "message": "failed",
        "request_id": "r1",
    }  # fmt: skip
    assert "ValueError: broken" in told["exception"]


@pytest.mark.parametrize("text", ["two\nlines", 'a "quoted" word', "name=value", ""])
def test_a_value_never_breaks_a_line_up(text: str) -> None:
    line = TextForm().format(record("request", value=text, last=1))
    assert "\n" not in line
    start, _, rest = line.partition(" value=")
    assert json.loads(rest.removesuffix(" last=1")) == text
    assert start.endswith("request")


def test_a_traceback_follows_a_line_of_text() -> None:
    first, *rest = TextForm().format(record("failed", error=True, request_id="r1")).splitlines()
    assert first.endswith("failed request_id=r1")
    assert rest[-1] == "ValueError: broken"


SECRET = "the-word-nobody-may-log"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Path]]:
    path = tmp_path_factory.mktemp("log") / "log"
    with started("--log-format", "json", "--api-key", "secret-key", log=path) as server:
        yield server, path


def lines_of(logged: tuple[Live, Path], request_id: str) -> list[dict[str, Any]]:
    """What was logged of one request, as soon as something was: the answer may be there before its line."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        whole = [line for line in logged[1].read_text().splitlines(keepends=True) if line.endswith("\n")]
        found = [json.loads(line) for line in whole if line.startswith("{")]
        if mine := [line for line in found if line.get("request_id") == request_id]:
            return mine
        time.sleep(0.02)
    raise AssertionError(f"nothing was logged of {request_id}")


def ask(live: Live, request_id: str, **body: Any) -> httpx.Response:
    headers = {"X-Request-Id": request_id, "Authorization": "Bearer secret-key"}
    return httpx.post(live.url + "/v1/completions", headers=headers, json={"prompt": SECRET, **body}, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
def test_each_request_is_one_line_with_its_figures(logged: tuple[Live, Path], stream: bool) -> None:
    name = f"whole-{stream}"
    ask(logged[0], name, max_tokens=5, ignore_eos=True, stream=stream)
    [line] = lines_of(logged, name)
    told = {key: line[key] for key in ("method", "route", "status", "finish", "answer_tokens", "message", "level")}
    assert told == {
        "method": "POST", "route": "/v1/completions", "status": 200, "finish": "length", "answer_tokens": 5,
        "message": "request", "level": "info",
    }  # fmt: skip
    assert line["prompt_tokens"] > 3
    assert 0 <= line["queue_s"] <= line["first_token_s"] <= line["seconds"]
    assert len(line["key"]) == 16
    assert line["cached_tokens"] >= 0


def test_a_refused_request_is_a_line_with_its_error(logged: tuple[Live, Path]) -> None:
    ask(logged[0], "refused", max_tokens=99_999)
    [line] = lines_of(logged, "refused")
    assert (line["status"], line["error"]) == (400, "context_length_exceeded")
    httpx.get(logged[0].url + "/v1/models", headers={"X-Request-Id": "stranger"})
    [line] = lines_of(logged, "stranger")
    assert (line["status"], line["error"], "key" in line) == (401, "invalid_api_key", False)


def test_a_client_that_leaves_is_told_as_cancelled(logged: tuple[Live, Path]) -> None:
    client = logged[0].client("secret-key")
    stream = client.completions.create(
        model="demo", prompt="def f(", max_tokens=1900, stream=True, extra_body={"ignore_eos": True},
        extra_headers={"X-Request-Id": "left"},
    )  # fmt: skip
    assert isinstance(stream, openai.Stream)
    next(iter(stream))
    stream.close()
    [line] = lines_of(logged, "left")
    assert line["finish"] == "cancelled"
    assert 0 < line["answer_tokens"] < 1900


def test_prompts_keys_and_health_checks_are_not_in_the_log(logged: tuple[Live, Path]) -> None:
    httpx.get(logged[0].url + f"/nothing/{SECRET}")
    ask(logged[0], "secret", max_tokens=2, stop=5)
    assert len(lines_of(logged, "secret")) == 1
    text = logged[1].read_text()
    for never in (SECRET, "secret-key", "/health"):
        assert never not in text


def test_every_line_of_a_json_log_but_ready_is_json(logged: tuple[Live, Path]) -> None:
    others = [line for line in logged[0].lines if not line.startswith("{")]
    assert [line[:7] for line in others] == ["ready: "]
    messages = [json.loads(line)["message"] for line in logged[0].lines[:-1]]
    assert any(message.startswith("started in") for message in messages)


def test_a_text_log_can_be_told_to_say_more(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with started("--log-level", "debug", log=path) as server:
        httpx.get(server.url + "/health", headers={"X-Request-Id": "probe"})
        assert server.stop() == 0
    assert " DEBUG twofold.server request method=GET route=/health status=200" in path.read_text()
    assert "request_id=probe" in path.read_text()
