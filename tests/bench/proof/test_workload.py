"""Made-up traffic is the same for a seed and new in every round; recorded traffic is read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twofold.bench.proof.workload import PRESETS, preset_workload, recorded_workload
from twofold.errors import SettingsError


@pytest.mark.parametrize("name", PRESETS)
def test_rounds_differ_and_a_seed_repeats_them(name: str) -> None:
    workload = preset_workload(name, None, None, None)
    first = workload.requests(seed=3, number=0)
    assert first == workload.requests(seed=3, number=0)
    assert first != workload.requests(seed=3, number=1)
    assert first != workload.requests(seed=4, number=0)
    assert len(first) == PRESETS[name].requests
    assert all(item.expected in item.body["messages"][-1]["content"] for item in first)


def test_characters_of_a_round_share_their_world() -> None:
    requests = preset_workload("game", 4, 2, None).requests(1, 0)
    assert len({item.body["messages"][0]["content"] for item in requests}) == 1
    assert len({item.body["messages"][1]["content"] for item in requests}) == 4


def test_recorded_traffic_keeps_its_fields_but_for_those_every_contender_gets(tmp_path: Path) -> None:
    path = tmp_path / "traffic.jsonl"
    lines: list[dict[str, Any]] = [
        {"model": "x", "stream": False, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5},
        {"prompt": "Once", "max_tokens": 3, "expected": "upon"},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    chat, text = recorded_workload(path, None, None, None).requests(1, 5)
    assert chat.route == "chat/completions"
    assert chat.body == {"messages": lines[0]["messages"], "temperature": 0.5}
    assert (text.route, text.body, text.expected) == ("completions", {"prompt": "Once", "max_tokens": 3}, "upon")
    assert len(recorded_workload(path, 1, None, None).requests(1, 0)) == 1


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds no requests"),
    ("{", "line 1 is no JSON"),
    ('{"prompt": "a"}\n[]', "line 2: an object with either messages or prompt"),
    ('{"prompt": "a", "messages": []}', "either messages or prompt"),
    ('{"messages": ["hi"]}', "messages must be a list of objects"),
    ('{"messages": []}', "messages must be a list of objects"),
    ('{"prompt": "a", "expected": 3}', "expected is 3"),
])  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        recorded_workload(path, None, None, None)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.jsonl cannot be read"):
        recorded_workload(tmp_path / "none.jsonl", None, None, None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        recorded_workload(tmp_path / "binary", None, None, None)


def test_what_is_asked_first_can_be_shown(tmp_path: Path) -> None:
    assert preset_workload("chat", None, None, None).openings(3, 2)[0].endswith("?")
    path = tmp_path / "traffic.jsonl"
    parts = [{"type": "text", "text": "Hi"}]
    path.write_text(
        "\n".join(map(json.dumps, [{"prompt": "Once"}, {"messages": [{"role": "user", "content": parts}]}]))
    )
    assert recorded_workload(path, None, None, None).openings(1, 9) == ["Once", ""]
