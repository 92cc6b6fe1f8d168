"""What a key may ask for in a minute: the arithmetic with a clock of our own, and a live server."""

from __future__ import annotations

import random

import httpx
import pytest

from tests.server.conftest import started
from twofold.server.problems import Problem
from twofold.server.quotas import Quotas

SHORT = {"model": "demo", "prompt": "def f(", "max_tokens": 3}


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def refused_s(quotas: Quotas, owner: bytes = b"") -> int | None:
    """Seconds told to wait, None when the request was taken."""
    try:
        quotas.admit(owner)
    except Problem as problem:
        return problem.retry_after_s
    return None


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    quotas = Quotas(6, None, clock)
    assert [refused_s(quotas) for _ in range(8)] == [None] * 6 + [10, 10]
    clock.now_s += 9.5
    assert refused_s(quotas) == 1
    clock.now_s += 1
    assert [refused_s(quotas) for _ in range(2)] == [None, 10]


def test_tokens_beyond_the_limit_are_a_debt_that_time_pays() -> None:
    clock = Clock()
    quotas = Quotas(None, 600, clock)
    assert refused_s(quotas) is None
    quotas.charge(b"", 900)
    assert refused_s(quotas) == 31  # 300 and 1 at 10 a second
    clock.now_s += 31
    assert refused_s(quotas) is None


def test_keys_do_not_share() -> None:
    quotas = Quotas(1, 10, Clock())
    assert [refused_s(quotas, owner) for owner in (b"a", b"a", b"b")] == [None, 60, None]
    quotas.charge(b"c", 100)
    assert refused_s(quotas, b"d") is None


def test_without_limits_nothing_is_refused() -> None:
    quotas = Quotas(None, None, Clock())
    quotas.charge(b"", 10**9)
    assert refused_s(quotas) is None


@pytest.mark.parametrize("seed", range(5))
def test_who_waits_as_long_as_told_is_taken_and_not_much_sooner(seed: int) -> None:
    draw, clock = random.Random(seed), Clock()
    quotas = Quotas(draw.randint(1, 50), draw.randint(1, 5000), clock)
    for _ in range(300):
        clock.now_s += draw.choice([0.0, 0.1, 5.0])
        wait_s = refused_s(quotas)
        if wait_s is None:
            quotas.charge(b"", draw.randint(0, 500))
            continue
        clock.now_s += max(0.0, wait_s - 1.001)
        assert refused_s(quotas) is not None
        clock.now_s += 1.002
        assert refused_s(quotas) is None


def test_a_live_server_counts_per_key_and_says_when_to_come_back() -> None:
    options = ("--key-requests-per-minute", "2", "--key-tokens-per-minute", "600")
    with started(*options, TWOFOLD_API_KEY="key-of-one key-of-two") as server:

        def ask(key: str, **more: object) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(server.url + "/v1/completions", json={**SHORT, **more}, headers=headers, timeout=60)

        assert [ask("key-of-one").status_code for _ in range(2)] == [200, 200]
        refused = ask("key-of-one")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert httpx.get(server.url + "/v1/models", headers={"x-api-key": "key-of-one"}).status_code == 200
        assert ask("key-of-two", max_tokens=700, ignore_eos=True).status_code == 200
        refused = ask("key-of-two")
        assert refused.status_code == 429
        assert "600 tokens" in refused.json()["error"]["message"]
