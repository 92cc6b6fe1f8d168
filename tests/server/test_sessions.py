"""Kept conversations over HTTP: restarts, owners, listing and forgetting."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.conftest import Live, started

RULES = "You are the innkeeper of a small town. " + " ".join(f"Rule {number}: be kind." for number in range(30))
TURNS: list[dict[str, str]] = [{"role": "system", "content": RULES}, {"role": "user", "content": "Who are you?"}]
KEYS = {"TWOFOLD_API_KEY": "first-key-123"}


def ask(server: Live, session: str | None, messages: Any = TURNS, key: str = "none", **more: Any) -> Any:
    extra = {"session_id": session} if session else {}
    with server.client(key) as client:
        answer = client.chat.completions.create(
            model="demo", messages=messages, max_tokens=12, temperature=0, extra_body=extra, **more
        )
        return list(answer) if more.get("stream") else answer


def cached(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.cached_tokens)


def next_turn(answer: Any) -> list[dict[str, str]]:
    said = {"role": "assistant", "content": answer.choices[0].message.content}
    return [*TURNS, said, {"role": "user", "content": "And what do you sell?"}]


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with started("--session-dir", str(tmp_path_factory.mktemp("sessions"))) as server:
        yield server


def test_a_conversation_goes_on_after_a_restart_without_being_read_again(tmp_path: Path) -> None:
    with started("--session-dir", str(tmp_path)) as server:
        first = ask(server, "inn")
        unnamed = ask(server, None, [{"role": "user", "content": RULES + " Who are you?"}])
        assert cached(unnamed) < 64
        assert server.stop() == 0
    with started("--session-dir", str(tmp_path)) as server:
        known = first.usage.prompt_tokens // 32 * 32
        *_, usage = ask(server, "inn", next_turn(first), stream=True, stream_options={"include_usage": True})
        assert cached(usage) >= known
        assert server.metric("twofold:session_recalled_tokens_total") >= known
        assert server.metric("twofold:session_dropped_blocks_total") == 0
        assert cached(ask(server, "inn", next_turn(first))) >= known
        assert cached(ask(server, None, [{"role": "user", "content": RULES + " Who are you?"}])) < 64
    with started() as server:
        assert ask(server, None).choices[0].message.content == first.choices[0].message.content


def test_what_was_killed_starts_again(tmp_path: Path) -> None:
    with started("--session-dir", str(tmp_path)) as server:
        first = ask(server, "inn")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)
    with started("--session-dir", str(tmp_path)) as server:
        assert ask(server, "inn").choices[0].message.content == first.choices[0].message.content


def test_sessions_are_listed_and_forgotten(keeping: Live) -> None:
    ask(keeping, "a:1")
    ask(keeping, "b.2")
    listed = httpx.get(keeping.url + "/v1/sessions").json()
    assert [item["id"] for item in listed["data"]] == ["a:1", "b.2"]
    assert all(item["tokens"] > 64 and item["last_used"] > 0 for item in listed["data"])
    gone = httpx.delete(keeping.url + "/v1/sessions/a:1")
    assert (gone.status_code, gone.json()) == (200, {"id": "a:1", "object": "session.deleted", "deleted": True})
    again = httpx.delete(keeping.url + "/v1/sessions/a:1")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "session_not_found")
    assert [item["id"] for item in httpx.get(keeping.url + "/v1/sessions").json()["data"]] == ["b.2"]


def test_a_key_sees_its_own_sessions_only(tmp_path: Path) -> None:
    with started("--session-dir", str(tmp_path), "--api-key", "second-key-456", "--api-key", "first-key-123") as server:
        ask(server, "inn", key="first-key-123")
        assert cached(ask(server, "inn", key="second-key-456")) == 0
        for key in ("first-key-123", "second-key-456"):
            headers = {"Authorization": f"Bearer {key}"}
            assert len(httpx.get(server.url + "/v1/sessions", headers=headers).json()["data"]) == 1
        headers = {"Authorization": "Bearer second-key-456"}
        assert httpx.delete(server.url + "/v1/sessions/inn", headers=headers).status_code == 200
        assert httpx.delete(server.url + "/v1/sessions/inn", headers=headers).status_code == 404
        headers = {"Authorization": "Bearer first-key-123"}
        assert len(httpx.get(server.url + "/v1/sessions", headers=headers).json()["data"]) == 1
        assert httpx.get(server.url + "/v1/sessions").status_code == 401


def test_a_session_is_one_conversation_with_a_proper_name(keeping: Live) -> None:
    for session, more in (("a", {"n": 2}), ("a/b", {}), ("", {}), ("x" * 129, {})):
        with keeping.client() as client, pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="demo",
                messages=TURNS,
                extra_body={"session_id": session},
                **more,  # type: ignore[call-overload]
            )
        assert caught.value.param == "session_id"
    with keeping.client() as client, pytest.raises(openai.BadRequestError, match="2 answers"):
        client.completions.create(model="demo", prompt=["a", "b"], extra_body={"session_id": "a"})


def test_without_a_folder_sessions_are_refused_by_name(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="--session-dir") as caught:
        ask(live, "inn")
    assert (caught.value.param, caught.value.code) == ("session_id", "sessions_disabled")
    assert httpx.get(live.url + "/v1/sessions").status_code == 400
