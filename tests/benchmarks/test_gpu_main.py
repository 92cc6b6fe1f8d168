"""The GPU benchmark where there is no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="pip install 'twofold[gpu]'")
pytestmark = pytest.mark.torch


def test_without_a_device_it_says_so_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks.gpu.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit):
        main()
    assert "torch sees no CUDA or ROCm device here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
