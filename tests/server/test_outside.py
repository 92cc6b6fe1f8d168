"""Pages of other origins, and a proxy's path, against live servers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.conftest import Live, started
from twofold.errors import SettingsError
from twofold.server.settings import ServerSettings

APP = "https://app.example.com"
OTHER = "https://evil.example.com"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-stainless-os"}


@pytest.fixture(scope="module")
def opened() -> Iterator[Live]:
    options = ("--cors-origin", APP, "--cors-origin", "http://localhost:3000", "--root-path", "/llm")
    with started(*options, TWOFOLD_API_KEY="key-of-app") as server:
        yield server


def test_without_the_flag_no_page_may_read_anything(live: Live) -> None:
    answer = httpx.options(live.url + "/v1/chat/completions", headers={"Origin": APP, **ASK})
    assert answer.status_code == 405
    answer = httpx.get(live.url + "/v1/models", headers={"Origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_needs_no_key_and_opens_for_listed_origins_only(opened: Live) -> None:
    for origin in (APP, "http://localhost:3000"):
        answer = httpx.options(opened.url + "/v1/chat/completions", headers={"Origin": origin, **ASK})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == origin
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == ASK["Access-Control-Request-Headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
    for origin in (OTHER, "null", APP + ".evil.com", "http://app.example.com"):
        answer = httpx.options(opened.url + "/v1/chat/completions", headers={"Origin": origin, **ASK})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers


def test_a_listed_page_still_needs_a_key_and_can_read_that(opened: Live) -> None:
    answer = httpx.get(opened.url + "/v1/models", headers={"Origin": APP})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == APP
    answer = httpx.get(opened.url + "/v1/models", headers={"Origin": APP, "Authorization": "Bearer key-of-app"})
    assert answer.status_code == 200
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    answer = httpx.get(opened.url + "/v1/models", headers={"Origin": OTHER, "Authorization": "Bearer key-of-app"})
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"]


def test_a_proxys_path_may_be_there_or_taken_away(opened: Live) -> None:
    for path in ("/llm/health", "/health"):
        assert httpx.get(opened.url + path).status_code == 200
    for path in ("/llm/v1/models", "/v1/models", "/llm", "/llm/"):
        assert httpx.get(opened.url + path).status_code == 401
        assert httpx.get(opened.url + path, headers={"x-api-key": "key-of-app"}).status_code == 200
    assert httpx.get(opened.url + "/llmhealth", headers={"x-api-key": "key-of-app"}).status_code == 404
    assert httpx.get(opened.url + "/llm/llm/health", headers={"x-api-key": "key-of-app"}).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"cors_origins": ("*",)},
        {"cors_origins": ("app.example.com",)},
        {"cors_origins": (APP + "/",)},
        {"cors_origins": ("null",)},
        {"root_path": "llm"},
        {"root_path": "/llm/"},
        {"root_path": "/a b"},
        {"key_tokens_per_minute": 0},
    ],
)
def test_settings_that_open_too_much_or_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        ServerSettings(**wrong)  # type: ignore[arg-type]
    assert ServerSettings(cors_origins=("*",), api_keys=("a-long-key",)).cors_origins == ("*",)
