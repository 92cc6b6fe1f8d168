from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.migrate.endpoints import misbehaving
from twofold.errors import SettingsError
from twofold.migrate.answers import Answer, Ask, Call
from twofold.migrate.client import Endpoint, read_address

ASK = Ask(line=1, kind="chat", body={"messages": [{"role": "user", "content": "Hi"}]})
Broken = tuple[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    with misbehaving() as found:
        yield found


def answer(broken: Broken, model: str | None, timeout_s: float = 5) -> Answer:
    return Endpoint(read_address(broken[0]), model, "secret", timeout_s).answer(ASK)


def test_a_stream_is_put_together_with_usage_and_times(broken: Broken) -> None:
    found = answer(broken, "good")
    assert (found.text, found.finish, found.prompt_tokens, found.completion_tokens) == ("Hello", "stop", 7, 2)
    assert found.failure is None
    assert found.first_token_s is not None
    assert 0 < found.first_token_s <= found.total_s


def test_the_first_model_that_is_named_is_asked(broken: Broken) -> None:
    endpoint = Endpoint(read_address(broken[0]), None, None, 5)
    assert endpoint.answer(ASK).text == "Hello"
    assert endpoint.told.endswith("/v1, good")
    assert broken[1][-1]["messages"] == ASK.body["messages"]


def test_tool_calls_come_in_pieces(broken: Broken) -> None:
    assert answer(broken, "calls").calls == (Call("lookup", '{"place": "here"}'),)


def test_an_endpoint_that_does_not_stream_or_knows_no_stream_options_is_taken_as_it_is(broken: Broken) -> None:
    whole = answer(broken, "whole")
    assert (whole.text, whole.first_token_s, whole.failure) == ("Hello", None, None)
    assert answer(broken, "picky").text == "Hello"


@pytest.mark.parametrize(
    ("model", "failure"),
    [
        ("cut", "nonsense: the stream ended before the answer did"),
        ("garbage", "nonsense: no JSON"),
        ("html", "nonsense: a line of the stream is"),
        ("list", "nonsense: no JSON object"),
        ("shape", "nonsense: a chunk has not the form"),
        ("text", "nonsense: a text is"),
        ("endless", "nonsense: more than 16 MiB"),
        ("page", "nonsense: no JSON"),
        ("fails", "error: out of memory"),
        ("status", "status 503: loading"),
        ("hangs-up", "unreachable: "),
    ],
)
def test_what_an_endpoint_does_wrong_is_a_finding(broken: Broken, model: str, failure: str) -> None:
    found = answer(broken, model, 20)
    assert found.failure is not None
    assert found.failure.startswith(failure)
    assert "secret" not in found.failure


@pytest.mark.parametrize("model", ["stalls", "trickles"])
def test_a_deadline_is_not_put_off_by_silence_or_by_bytes_that_trickle(broken: Broken, model: str) -> None:
    found = answer(broken, model, 0.3)
    assert found.failure == "timeout: no complete answer within 0.3 s"


def test_nobody_there_is_a_finding() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    found = Endpoint(read_address(url), None, None, 2).answer(ASK)
    assert found.failure is not None
    assert found.failure.startswith("unreachable: ")


def test_addresses_are_read_as_people_write_them() -> None:
    for url in ("http://h", "http://h:80/v1/", "http://h/v1/chat/completions"):
        assert read_address(url).told == "http://h:80/v1"
    assert read_address("http://[::1]:8000").told == "http://[::1]:8000/v1"
    assert read_address("https://h/openai/v1").told == "https://h:443/openai/v1"
    for url in ("h:80", "ftp://h", "http://", "http://u:p@h", "http://h:x", "http://h/?key=1"):
        with pytest.raises(SettingsError):
            read_address(url)
