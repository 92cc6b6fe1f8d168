"""The GPU benchmark where there is no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command


@pytest.mark.torch
def test_without_a_device_it_says_so_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'twofold[gpu]'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit):
        command.main()
    assert "torch sees no CUDA or ROCm device here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "NEEDS", ("json", "no_such_package"))
    assert command.main() == 2
    assert "no_such_package not installed: pip install 'twofold[gpu]'" in capsys.readouterr().err
