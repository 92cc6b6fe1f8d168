"""Sessions by name: shared blocks are counted, damaged files are removed, the oldest come first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twofold.engine.pool import first_key, prefix_keys
from twofold.engine.request import SessionName
from twofold.engine.session_book import Session, SessionBook, from_json, to_json


def at_once(work: Callable[[], None]) -> None:
    work()


def session(name: str, tokens: list[int], used_s: float = 1.0, first_local: int | None = None) -> Session:
    keys = tuple(prefix_keys(first_key(b""), tokens, 4))
    first = len(keys) if first_local is None else first_local
    return Session(name=SessionName(owner="me", name=name), keys=keys, first_local=first, used_s=used_s)


PERSONA = list(range(16))


def test_a_shared_beginning_is_needed_until_its_last_session_goes(tmp_path: Path) -> None:
    book = SessionBook(tmp_path, at_once)
    knight = session("knight", [*PERSONA, *[7] * 8], first_local=5)
    witch = session("witch", [*PERSONA, *[8] * 4], first_local=5)
    assert book.put(knight) == []
    assert book.put(witch) == []
    assert sum(count == 2 for count in book.wanted.values()) == 4
    assert book.remove(knight.name) == [
        ("global", knight.keys[4]),
        ("global", knight.keys[5]),
        ("local", knight.keys[5]),
    ]
    assert set(book.remove(witch.name)) == {("global", key) for key in witch.keys}
    assert not +book.wanted
    assert list(tmp_path.iterdir()) == []


def test_a_longer_conversation_replaces_a_shorter_one_and_a_branch_frees_the_old_end(tmp_path: Path) -> None:
    book = SessionBook(tmp_path, at_once)
    assert book.put(session("a", PERSONA)) == []
    longer = session("a", [*PERSONA, *[1] * 4])
    assert book.put(longer) == []
    assert book.put(session("a", [*PERSONA, *[2] * 4])) == [("global", longer.keys[-1])]


def test_a_request_cancelled_early_does_not_shorten_what_is_known(tmp_path: Path) -> None:
    book = SessionBook(tmp_path, at_once)
    whole = session("a", PERSONA)
    book.put(whole)
    assert book.put(session("a", PERSONA[:6], used_s=5.0)) == []
    [known] = book.sessions.values()
    assert known.keys == whole.keys
    assert known.used_s == 5.0


def test_sessions_come_back_in_the_order_of_their_use(tmp_path: Path) -> None:
    book = SessionBook(tmp_path, at_once)
    for name, used_s in (("b", 3.0), ("a", 2.0), ("c", 4.0), ("b", 5.0)):
        book.put(session(name, [*PERSONA, *[ord(name)] * 9], used_s, first_local=2))
    again = SessionBook(tmp_path, at_once)
    assert [name.name for name in again.sessions] == ["a", "c", "b"]
    assert again.sessions == dict(book.sessions)
    assert again.wanted == +book.wanted


@pytest.mark.parametrize("change", [
    {"version": 2}, {"owner": 3}, {"name": None}, {"used": "now"}, {"first_local": 99}, {"first_local": -1},
    {"first_local": True}, {"keys": ["00"]}, {"keys": [1]}, {"keys": None}, {"more": 1}, {"name": "another"},
])  # fmt: skip
def test_a_damaged_file_is_removed(tmp_path: Path, change: dict[str, Any]) -> None:
    book = SessionBook(tmp_path, at_once)
    book.put(session("a", PERSONA))
    [path] = tmp_path.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not SessionBook(tmp_path, at_once).sessions
    assert not path.exists()


def test_no_beginning_of_a_file_is_a_session() -> None:
    text = to_json(session("a", PERSONA, first_local=1)).encode()
    assert from_json(text) == session("a", PERSONA, first_local=1)
    assert all(from_json(text[:end]) is None for end in range(len(text)))
    assert from_json(b"[" * 100_000) is None
