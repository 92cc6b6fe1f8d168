"""A model whose routed experts stay in the host's memory, from the side of who uses it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import started
from twofold import LLM, SamplingParams
from twofold.config import Resolved, Settings, resolve
from twofold.errors import OutOfMemory, SettingsError
from twofold.loading import needed_bytes, open_model
from twofold.offloading import SPARED, least_bytes, place_experts

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
SETTINGS: dict[str, Any] = {
    "backend": "gpu", "device": "cpu", "dtype": "w4a8", "context": 128, "max_sequences": 2, "step_tokens": 24,
}  # fmt: skip
PROMPTS = ["Once upon a time", "one two three four five six seven " * 6]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The demo model is too small to share out; threads that wait for each other took minutes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_answers_are_the_same_to_the_bit_and_the_cost_is_told() -> None:
    whole, some = LLM("demo", **SETTINGS), LLM("demo", **SETTINGS, expert_cache=500_000)
    assert whole.loaded.warnings == ()
    assert "the 32 routed experts (2 MB) stay in the host's memory, 9 of them (0 MB)" in some.loaded.warnings[0]
    assert "A token uses 4; for each that is not there it waits" in some.loaded.warnings[0]
    for params in (SamplingParams(temperature=0.0, max_tokens=6), SamplingParams(seed=3, max_tokens=6)):
        expected, found = whole.generate(PROMPTS, params), some.generate(PROMPTS, params)
        assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    ids = some.encode(PROMPTS[1])
    assert np.array_equal(some.logits(ids), whole.logits(ids))
    ops: Any = some.loaded.ops
    assert ops.uses.hits > 0
    assert ops.uses.misses > 9
    with pytest.raises(SettingsError, match="has one cache"):
        some.with_kv_cache("f32")


def test_a_cache_that_holds_all_experts_keeps_them_on_the_device() -> None:
    assert LLM("demo", **SETTINGS, expert_cache=10**9).loaded.settings.expert_cache == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expert_cache": 1000}, "expert_cache is 1000; "),
        ({"expert_cache": 10**6, "backend": "cpu"}, "expert_cache is for one device of the gpu backend"),
        ({"expert_cache": 10**6, "ranks": 2}, "expert_cache is for one device of the gpu backend"),
        ({"expert_cache": 0}, "expert_cache is 0; it must be a whole number of at least 1"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        LLM("demo", **{**SETTINGS, **settings})
    assert said in str(error.value)


def placed(monkeypatch: pytest.MonkeyPatch, free: int, host: int = 10**12) -> Resolved:
    """Where the demo model's experts go on an accelerator with so much memory."""
    monkeypatch.setattr("twofold.offloading.available_bytes", lambda _: free)
    monkeypatch.setattr("twofold.offloading.available_memory", lambda: host)
    settings = resolve(Settings(), ("gpu", "cuda"), "w4a8", "bf16", 2048, 1024)
    model = open_model("demo")
    return place_experts(model, None, settings, lambda chosen: needed_bytes(model, chosen))


def test_experts_leave_a_device_that_is_too_small_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model("demo")
    settings = resolve(Settings(), ("gpu", "cuda"), "w4a8", "bf16", 2048, 1024)
    every, experts = needed_bytes(model, settings), model.footprint("w4a8").bytes["expert"]
    least = least_bytes(model, "w4a8")
    assert placed(monkeypatch, every).expert_cache == 0
    monkeypatch.setattr("twofold.offloading.SPARED", 10**12)
    found = placed(monkeypatch, every - 1)
    assert found.expert_cache == experts - 1
    assert needed_bytes(model, found) == every - 1
    assert placed(monkeypatch, every - experts + least).expert_cache == least
    with pytest.raises(OutOfMemory, match="even with the routed experts in the host's memory"):
        placed(monkeypatch, every - experts + least - 1)
    with pytest.raises(OutOfMemory, match="the routed experts take"):
        placed(monkeypatch, every - 1, host=experts - 1)


def test_a_part_of_the_device_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model("demo")
    experts = model.footprint("w4a8").bytes["expert"]
    monkeypatch.setattr("twofold.offloading.available_bytes", lambda _: experts // 2)
    settings = resolve(Settings(), ("gpu", "cuda"), "w4a8", "bf16", 2048, 1024)
    found = place_experts(model, None, settings, lambda _: experts + 1000)
    assert found.expert_cache == experts // 2 - experts // 2 // SPARED - 1000


def test_a_server_counts_what_it_fetched() -> None:
    with started("--backend", "gpu", "--device", "cpu", "--expert-cache", "0.6MB") as live:
        assert any("stay in the host's memory" in line for line in live.lines)
        with live.client() as client:
            client.completions.create(model="demo", prompt="one two", max_tokens=4)
        hits, misses = live.metric("twofold:expert_cache_hits_total"), live.metric("twofold:expert_cache_misses_total")
        assert misses > 0
        assert hits + misses >= 4 * 4
        assert live.metric("twofold:expert_copied_bytes_total") > 0
        assert live.stop() == 0
