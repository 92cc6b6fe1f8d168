"""Where a network runs: what was asked for, what is there, and what is said when it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twofold import placing
from twofold.config import Settings, resolve
from twofold.errors import SettingsError
from twofold.placing import choose_place, roomier

GPU = resolve(Settings(context=512), ("gpu", "cuda"), "bf16", "bf16", 2048, 1000)


def test_what_is_asked_for_is_taken() -> None:
    assert choose_place(Settings(backend="reference")) == ("reference", "cpu")
    assert choose_place(Settings(backend="cpu")) == ("cpu", "cpu")
    assert choose_place(Settings(device="cpu")) == ("cpu", "cpu")


@pytest.mark.torch
def test_the_gpu_backend_runs_on_the_cpu_where_that_is_asked_for() -> None:
    pytest.importorskip("torch")
    assert choose_place(Settings(backend="gpu", device="cpu")) == ("gpu", "cpu")


@pytest.mark.torch
@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(name: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SettingsError, match="cpu"):
        choose_place(Settings(device=name))


def test_a_device_beside_a_backend_without_one_is_a_contradiction() -> None:
    with pytest.raises(SettingsError, match="leave one out"):
        Settings(backend="cpu", device="cuda")


def test_without_torch_a_device_is_refused_and_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.placing.importlib.util.find_spec", lambda name: None)
    assert choose_place(Settings()) == ("cpu", "cpu")
    with pytest.raises(SettingsError, match=r"twofold\[gpu\]"):
        choose_place(Settings(device="cuda"))


def test_torch_is_looked_at_only_where_the_system_shows_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert not placing.may_have_accelerator()


def test_the_cache_takes_half_of_what_weights_leave_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.placing.device_bytes", lambda settings: 10_000_000)
    grown = roomier(Settings(context=512), GPU, 2_000_000, 1000)
    assert grown.cache_tokens == max(GPU.cache_tokens, min(GPU.max_sequences * 512, 4000))
    small = replace(GPU, cache_tokens=512)
    assert roomier(Settings(context=512), small, 2_000_000, 1000).cache_tokens == 4000
    assert roomier(Settings(context=512, cache_tokens=512), small, 0, 1000) == small


def test_on_a_cpu_the_cache_stays_as_it_was() -> None:
    resolved = resolve(Settings(context=512), ("cpu", "cpu"), "bf16", "bf16", 2048, 1000)
    assert roomier(Settings(context=512), resolved, 0, 1000) == resolved


@pytest.mark.torch
def test_only_where_kernels_run_they_are_rehearsed() -> None:
    pytest.importorskip("torch")
    engine: Any = None  # nobody looks at it
    for changes in ({"backend": "cpu"}, {"device": "cpu"}, {"device": "xpu"}, {"ranks": 2}, {"expert_cache": 1}):
        assert not placing.rehearse(replace(GPU, **changes), engine)
