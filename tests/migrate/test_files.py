from __future__ import annotations

import codecs
from collections import Counter
from pathlib import Path

import pytest

from twofold.errors import SettingsError
from twofold.migrate.files import decode, kind_of, sources


def names(root: Path) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    return [source.name for source in sources(root, skipped)], skipped


def test_others_code_links_and_what_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "node_modules/b.js",
        ".git/c.py",
        "vendor/d.py",
        "e.png",
        "f.py",
        "g.json",
        "h.js",
        "sub/i.yaml",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "f.py").write_bytes(b"\0\1")
    (tmp_path / "g.json").write_bytes(b" " * (2**20 + 1))
    (tmp_path / "h.js").write_text("x" * 20_001)
    (tmp_path / "j.py").symlink_to("a.py")
    found, skipped = names(tmp_path)
    assert found == ["a.py", "sub/i.yaml"]
    assert sorted(skipped.values()) == [1, 1, 1, 1, 1, 3]


def test_files_of_a_model_are_never_touched(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (tmp_path / name).write_text('{"eos_token_id": 128009}')
    assert names(tmp_path)[0] == []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    assert names(tmp_path)[0] == ["own/config.json"]


def test_one_file_may_be_named_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile.gpu").write_text("FROM x")
    assert names(tmp_path / "Dockerfile.gpu")[0] == ["Dockerfile.gpu"]
    with pytest.raises(SettingsError, match="neither a file nor a folder"):
        names(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".env.local", "settings"),
        ("Modelfile", "modelfile"),
        ("a.TSX", "javascript"),
        ("x.md", None),
        ("compose.yml", "yaml"),
    ],
)
def test_kinds_go_by_names(name: str, kind: str | None) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize(
    "data",
    ["ü\r\n".encode(), "ü".encode("latin-1"), codecs.BOM_UTF8 + b"x", "\ufeffü".encode("utf-16-le"), b"\xff\xfea"],
)
def test_text_comes_back_as_the_same_bytes(data: bytes, tmp_path: Path) -> None:
    decoded = decode(data)
    if decoded is None:
        assert data == b"\xff\xfea"
        return
    (tmp_path / "a.py").write_bytes(data)
    (source,) = sources(tmp_path, Counter())
    assert source.encode(source.text) == data
