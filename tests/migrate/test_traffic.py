from __future__ import annotations

from pathlib import Path

import pytest

from twofold.errors import SettingsError
from twofold.migrate.traffic import MOST_LINE_BYTES, prepared, read_traffic

GOOD = '{"messages": [{"role": "user", "content": "Hi"}], "model": "m", "stream": true, "temperature": 0.7}'


def test_malformed_lines_are_named_by_number_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{GOOD}\n\n{{broken\n[1]\n{{"prompt": "Hi"}}\n{{"messages": []}}\n{{"messages": "Hi"}}\n')
    found = read_traffic(path)
    assert [(ask.line, ask.kind) for ask in found.asks] == [(1, "chat"), (5, "completion")]
    assert [line for line, _ in found.bad] == [3, 4, 6, 7]
    assert "model" not in found.asks[0].body


def test_bytes_that_are_no_text_and_lines_without_end_are_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xff\xfe\n" + b"x" * (2 * MOST_LINE_BYTES) + b"\n" + b"[" * 100_000 + b"\n" + GOOD.encode())
    found = read_traffic(path)
    assert [ask.line for ask in found.asks] == [4]
    assert [line for line, _ in found.bad] == [1, 2, 3]


def test_a_file_without_requests_is_an_error_that_names_the_first_problem(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("hello\n")
    with pytest.raises(SettingsError, match="line 1: no JSON"):
        read_traffic(tmp_path / "t.jsonl")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_traffic(tmp_path)


def test_greedy_takes_the_place_of_recorded_sampling_and_lengths_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(GOOD)
    (ask,) = read_traffic(tmp_path / "t.jsonl").asks
    assert (prepared(ask, True, 9).body["temperature"], prepared(ask, True, 9).body["max_tokens"]) == (0, 9)
    assert prepared(ask, False, 9).body["temperature"] == 0.7
