"""Runners are processes: what they are asked, what they answer, and what is said when they do not."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers import protocol
from benchmarks.peers.protocol import EngineFailed, Report, Request, Task, ask, read_once, run_tasks, without_folders

ROOT = Path(__file__).parents[2]
REQUEST = Request(weights="nowhere", threads=2, tasks=(Task(prompt=1), Task(prompt=512)), options={"rate": 50.0})
FAKE = """
from benchmarks.peers.protocol import Engine, Request, answer

def load(request: Request) -> Engine:
    print("noise that engines make")
    rate = request.options["rate"]
    return Engine(version=request.weights, run=lambda prompt, sequences, steps: (rate * prompt, rate * sequences))

answer(load)
"""


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_fake_engine_answers_what_it_was_asked() -> None:
    before = time.monotonic()
    report = ask([sys.executable, "-c", FAKE], REQUEST)
    assert report.version == "nowhere"
    assert report.rates == {"1x1": (50.0, 50.0), "512x1": (25600.0, 50.0)}
    assert 0 < report.start_s <= time.monotonic() - before
    assert report.peak_memory_bytes > 2**20
    assert report.skipped == {}


def test_weights_are_read_once_before_a_start_is_timed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights").write_bytes(bytes(protocol.READ_BYTES + 5))
    (tmp_path / "config").write_bytes(bytes(7))
    assert read_once(tmp_path) == protocol.READ_BYTES + 12
    assert read_once(tmp_path / "config") == 7
    assert read_once(tmp_path / "nowhere") == 0, "the engine says what it does not find"


def test_requests_and_reports_survive_json() -> None:
    assert Request.from_json(REQUEST.to_json()) == REQUEST
    report = Report(version="1", start_s=1.5, peak_memory_bytes=7, rates={"1x1": (1.0, 2.0)}, skipped={"9x1": "slow"})
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('no such weights')", "code 1: no such weights"),
        ("print('hello')", "no report: hello"),
        ("print('{\"version\": 1}')", "no report"),
        ("pass", "code 0: nothing"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by signal 11"),
    ],
)
def test_an_engine_that_fails_is_quoted(program: str, said: str) -> None:
    with pytest.raises(EngineFailed, match=said):
        ask([sys.executable, "-c", program], REQUEST)


def test_a_runner_that_is_missing_is_named() -> None:
    with pytest.raises(EngineFailed, match="no-such-program cannot be started"):
        ask(["./no-such-program"], REQUEST)


def test_a_task_that_would_take_too_long_is_skipped_with_its_reason() -> None:
    tasks = [Task(prompt=4096), Task(prompt=512), Task(prompt=1)]
    rate = 4096 / (2 * protocol.PATIENCE_S)
    rates, skipped = run_tasks(tasks, 32, lambda prompt, sequences, steps: (rate, 1.0))
    assert sorted(rates) == ["1x1", "512x1"]
    assert skipped == {"4096x1": f"would take {2 * protocol.PATIENCE_S:.0f} s at {rate:.1f} tokens/s"}


def test_slow_short_prompts_do_not_stop_long_ones() -> None:
    rates, skipped = run_tasks([Task(prompt=1), Task(prompt=4096)], 32, lambda prompt, sequences, steps: (prompt, 1.0))
    assert sorted(rates) == ["1x1", "4096x1"]
    assert not skipped


def test_one_token_everywhere_is_left_to_engines_that_can_be_asked_for_it() -> None:
    tasks = [Task(prompt=512), Task(prompt=512, is_alike=True)]
    assert list(run_tasks(tasks, 32, lambda *_: (99.0, 1.0))[0]) == ["512x1"]
    rates, skipped = run_tasks(tasks, 32, lambda *_: (99.0, 1.0), lambda *_: (500.0, 2.0))
    assert rates == {"512x1": (99.0, 1.0), "512x1 alike": (500.0, 2.0)}
    assert not skipped


def test_a_stored_reason_names_no_folders() -> None:
    said = "env PYTHONPATH=/a/b.c/packages:/d/src /e/bin/python ...: No such file: '/f/g h/x.gguf', read/write"
    assert without_folders(said) == "env PYTHONPATH=packages:src python ...: No such file: 'g h/x.gguf', read/write"
