"""The command line of a proof: what it takes, what it refuses, and what it keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.bench.proof.servers import Script, scripted
from twofold.cli.main import group
from twofold.cli.prove import read_limits, without_keys
from twofold.errors import SettingsError, TwofoldError

PROGRAM = [sys.executable, "-c", "from twofold.cli.main import main; main()", "prove"]


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(group, ["prove", *arguments])
    assert isinstance(result.exception, TwofoldError), result.output
    return str(result.exception)


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "name a model to prove"),
    (["demo", "--replay", "."], "one of the two"),
    (["http://127.0.0.1:1"], "needs the candidate's files"),
    (["demo", "--price-class", "x"], "give the book with --prices"),
    (["demo", "--monthly-tokens", "1e9"], "no price of this machine"),
    (["demo", "--price-per-hour", "0"], "above 0"),
    (["demo", "--latency-limit", "1"], "two numbers of seconds"),
    (["no/such/model"], "no/such/model"),
    (["demo", "--baseline", "ftp://x"], "ftp://x"),
    (["--replay", "."], "no proof that can be read"),
])  # fmt: skip
def test_what_cannot_be_proven_is_refused_before_anything_starts(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    if "--replay" in arguments and arguments[0] == "--replay":
        arguments = ["--replay", str(tmp_path)]
    if arguments and arguments[0] != "--replay":
        arguments = [*arguments, "-o", str(tmp_path / "bundle")]
    assert said in refused(*arguments)


@pytest.mark.parametrize("text", ["1,", "a,b", "0,1", "1,0", "1,2,3", ".,."])
def test_limits_are_two_numbers(text: str) -> None:
    with pytest.raises(SettingsError):
        read_limits(text)


def test_keys_are_never_kept() -> None:
    arguments = [
        "prove",
        "demo",
        "--key",
        "a",
        "--baseline-key=b",
        "--baseline-key",
        "--key",
        "--rounds",
        "3",
        "--key=c",
    ]
    assert without_keys(arguments) == ["prove", "demo", "--rounds", "3"]


def test_a_proof_is_told_kept_and_repeated(tmp_path: Path) -> None:
    with scripted(Script(between_s=0.001)) as fast, scripted(Script(between_s=0.01)) as slow:
        first = run(
            [fast, "--baseline", slow, "--requests", "8", "--rounds", "6", "--key", "secret-key"], tmp_path / "one"
        )
        assert "PROVEN" in first.stdout.splitlines()[-2]
        assert "x [" in first.stdout
        again = run(["--replay", str(tmp_path / "one")], tmp_path / "two")
    assert "Output tokens per second:" in again.stdout
    assert "before" in again.stdout
    for path in (tmp_path / "one").rglob("*"):
        assert not path.is_file() or b"secret-key" not in path.read_bytes()
    raw: dict[str, Any] = json.loads((tmp_path / "one" / "result.json").read_text())
    assert raw["status"] == "complete"
    assert raw["contenders"]["candidate"]["model"] == "scripted"


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    found = subprocess.run([*PROGRAM, *arguments, "-o", str(folder)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found


def test_bench_measures_a_server_with_the_same_core() -> None:
    with scripted(Script()) as url:
        result = CliRunner().invoke(group, ["bench", url, "--preset", "chat", "--repeats", "2", "--json"])
        figures = json.loads(result.stdout)
        assert figures["tokens_per_s"]["median"] > 0
        assert "start_s" not in figures
        result = CliRunner().invoke(group, ["bench", url, "--preset", "chat", "--dtype", "w8a8"])
    assert "as it is" in str(result.exception)
