"""Sources from text, and the sample applications in a folder of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twofold.migrate.files import Source, decode, kind_of
from twofold.migrate.findings import Finding
from twofold.migrate.scan import findings_in

SAMPLES = Path(__file__).parent / "samples"
collect_ignore = ["samples"]


def source_of(text: str, name: str = "a.py") -> Source:
    data = text.encode()
    decoded, kind = decode(data), kind_of(Path(name))
    assert decoded is not None
    assert kind is not None
    return Source(path=Path(name), name=name, kind=kind, data=data, text=decoded[0], encoding=decoded[1])


def found_in(text: str, name: str = "a.py", to: str = "llama4") -> list[Finding]:
    return findings_in(source_of(text, name), to)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The sample applications, free to be changed."""
    shutil.copytree(SAMPLES, tmp_path / "app")
    return tmp_path / "app"
