"""When kernels are launched before the one in front has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from twofold.backends.gpu.kernels import early

DEVICE = torch.device("cpu")


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device that can, and nobody who forbids it."""
    monkeypatch.setattr(early, "target", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.delenv("TWOFOLD_EARLY", raising=False)
    early.can_start_early.cache_clear()
    yield
    early.can_start_early.cache_clear()


def test_kernels_start_early_where_they_can() -> None:
    assert early.options(DEVICE) == {"EARLY": True, "launch_pdl": True}


def test_kernels_wait_their_turn_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_EARLY", "0")
    assert early.options(DEVICE) == {"EARLY": False}


def test_older_devices_and_other_targets_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    assert early.options(DEVICE) == {"EARLY": False}
    early.can_start_early.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(early, "target", lambda: "hip")
    assert early.options(DEVICE) == {"EARLY": False}


def test_nothing_starts_early_while_two_streams_run_even_one_inside_the_other() -> None:
    with early.paused():
        with early.paused():
            pass
        assert not early.starts_early(DEVICE)
    assert early.starts_early(DEVICE)
