from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.errors import CheckpointError
from twofold.weights.strict_json import parse_object, read_json


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": [1, "\\u00e9"]}')
    assert read_json(tmp_path, "config.json") == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[]", "JSON list"),
        (b"3", "JSON int"),
        (b"\xff", "not UTF-8"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a":' * 50_000, "not valid JSON"),
    ],
)
def test_anything_else_is_refused_with_the_file_named(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_json(tmp_path, "config.json")
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_missing_file_names_file_folder_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing in .*download"):
        read_json(tmp_path, "config.json")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path, "config.json")


@given(st.binary(max_size=60))
def test_random_bytes_are_an_object_or_a_checkpoint_error(data: bytes) -> None:
    with suppress(CheckpointError):
        assert isinstance(parse_object(data, "x"), dict)
