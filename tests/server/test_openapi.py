"""The description of the API: whole, closed like every route, and true under a few hundred requests made from it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from tests.fuzz.api import KEY, run_round, server_options
from tests.server.conftest import Live, started
from twofold.server.openapi import ROUTES

SEED = int(os.environ.get("TWOFOLD_API_SEED", "20261126"))
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with started(*server_options(tmp_path_factory.mktemp("sessions"))) as server:
        yield server


def test_every_route_is_described_and_there_is_no_other(live: Live) -> None:
    found = httpx.get(live.url + "/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    assert {f"{method.upper()} {path}" for path, item in found["paths"].items() for method in item} == set(ROUTES)
    assert "securitySchemes" not in found["components"]
    assert "401" not in found["paths"]["/v1/models"]["get"]["responses"]
    described = found["components"]["schemas"]["ChatRequest"]
    assert described["additionalProperties"] is False
    assert described["required"] == ["messages"]


def test_with_keys_the_description_is_closed_and_says_so(closed: Live) -> None:
    assert httpx.get(closed.url + "/openapi.json").status_code == 401
    found = httpx.get(closed.url + "/openapi.json", headers=HEADERS).json()
    assert set(found["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    for path, item in found["paths"].items():
        for operation in item.values():
            assert ("security" in operation) == (path != "/health")


def test_every_post_wants_json_so_that_no_form_can_send_one(live: Live) -> None:
    for name in ROUTES:
        method, path = name.split(" ")
        if method == "POST":
            for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
                headers = {"Content-Type": kind, "Origin": "https://evil.example.com"}
                assert httpx.post(live.url + path, content=b"{}", headers=headers).status_code == 415, path


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"])
def test_a_method_a_route_does_not_know_is_a_405_that_names_those_it_knows(live: Live, method: str) -> None:
    answer = httpx.request(method, live.url + "/version")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_a_few_hundred_requests_find_nothing(closed: Live) -> None:
    print(f"TWOFOLD_API_SEED={SEED}")
    found = run_round(closed, SEED, per_route=10, phases=("fuzzing",), workers=2)
    assert found.passed, found.text
    assert found.cases >= 200
