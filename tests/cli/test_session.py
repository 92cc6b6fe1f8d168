"""What verbs tell while a model is loaded and its kernels are compiled."""

from __future__ import annotations

import pytest

from twofold.cli import session
from twofold.cli.session import Compiled, load_with_progress


def test_the_first_kernel_and_every_tenth_are_told() -> None:
    told: list[str] = []
    compiled = Compiled(told.append)
    for _ in range(25):
        compiled.one_more("norm_kernel")
    assert [text.split(",")[0] for text in told] == ["compiling kernels", "compiled 10 kernels", "compiled 20 kernels"]


def test_warnings_go_where_the_caller_wants_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loaded:
        def __init__(self, *_: object, **__: object) -> None:
            self.loaded = self
            self.warnings = ("three experts were never asked",)
            self.settings = None

    monkeypatch.setattr(session, "LLM", Loaded)
    monkeypatch.setattr(session, "on_compilation", lambda *_: None)
    told: list[str] = []
    load_with_progress("model", told.append)
    assert told == ["warning: three experts were never asked"]
    assert capsys.readouterr().err == ""
    load_with_progress("model")
    assert capsys.readouterr().err == "warning: three experts were never asked\n"
