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
from twofold.cli.prove import folder_name, read_limits, without
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
    (["demo", "--price-class", "x"], "the price book has no machine 'x'"),
    (["demo", "--monthly-tokens", "1e9"], "no price of this machine"),
    (["demo", "--price-per-hour", "0"], "above 0"),
    (["demo", "--latency-limit", "1"], "two numbers of seconds"),
    (["no/such/model"], "no/such/model"),
    (["demo", "--baseline", "ftp://x"], "ftp://x"),
    (["--replay", "."], "no proof that can be read"),
    (["demo", "--baseline", "bf16", "--baseline", "bf16"], "bf16 twice"),
    (["demo", "--baseline", "bf16", "--baseline", "no/such/model"], "no/such/model"),
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
    assert without(arguments, "key", "baseline-key") == ["prove", "demo", "--rounds", "3"]
    assert without(["x", "--baseline", "--key", "--baseline_key", "k"], "baseline-key") == ["x", "--baseline", "--key"]
    assert without(["x", "--baseline=bf16", "--baseline", "y", "--baseline-dtype", "f32"], "baseline") == [
        "x", "--baseline-dtype", "f32",
    ]  # fmt: skip


@pytest.mark.parametrize(("baseline", "name"), [
    ("bf16", "bf16"),
    ("http://127.0.0.1:8080/v1", "127.0.0.1-8080-v1"),
    ("meta-llama/Llama-3.2-1B", "meta-llama-Llama-3.2-1B"),
    ("../../x", "x"),
    ("..", "baseline"),
])  # fmt: skip
def test_a_baseline_names_a_folder(baseline: str, name: str) -> None:
    assert folder_name(baseline) == name


def test_a_proof_is_told_kept_and_repeated(tmp_path: Path) -> None:
    with scripted(Script(between_s=0.001)) as fast, scripted(Script(between_s=0.03)) as slow:
        asked = [fast, "--baseline", slow, "--requests", "8", "--rounds", "6", "--key", "secret-key"]
        first = run(asked, tmp_path / "one")
        assert first.stdout.splitlines()[-2].startswith("PROVEN")
        assert "x [" in first.stdout
        again = run(["--replay", str(tmp_path / "one")], tmp_path / "two")
        lost = run([*asked, "--target", "100"], tmp_path / "three", status=3)
    assert lost.stdout.splitlines()[-2].startswith("NOT PROVEN")
    assert "Output tokens per second:" in again.stdout
    assert "before" in again.stdout
    for path in (tmp_path / "one").rglob("*"):
        assert not path.is_file() or b"secret-key" not in path.read_bytes()
    raw: dict[str, Any] = json.loads((tmp_path / "one" / "result.json").read_text())
    assert raw["status"] == "complete"
    assert raw["contenders"]["candidate"]["model"] == "scripted"


def test_several_baselines_are_proven_one_after_the_other(tmp_path: Path) -> None:
    fast, slow = Script(between_s=0.001), Script(between_s=0.02)
    with scripted(fast) as candidate, scripted(slow) as one, scripted(fast) as other:
        gone = "http://127.0.0.1:9"
        baselines = [item for url in (one, gone, other) for item in ("--baseline", url)]
        sizes = ["--requests", "8", "--rounds", "6", "--target", "1.5"]
        found = run([candidate, *baselines, *sizes], tmp_path / "all", status=1)
        folders = {url: tmp_path / "all" / folder_name(url) for url in (one, gone, other)}
        *_, first, second, third = found.stdout.splitlines()
        assert first.startswith(f"{one}: PROVEN")
        assert second.startswith(f"{gone}: not measured: http://127.0.0.1:9 cannot be reached")
        assert third.startswith(f"{other}: NOT PROVEN")
        results = {url: json.loads((folder / "result.json").read_text()) for url, folder in folders.items()}
        assert [results[url]["status"] for url in results] == ["complete", "partial", "complete"]
        assert results[one]["command"] == ["twofold", "prove", candidate, *sizes, "-o", str(tmp_path / "all"),
                                           "--baseline", one]  # fmt: skip
        again = run(["--replay", str(folders[one])], tmp_path / "again")
    assert "PROVEN" in again.stdout


def test_a_replay_asks_what_was_asked_though_the_prompt_file_is_gone(tmp_path: Path) -> None:
    prompts = tmp_path / "traffic.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"Où {number}?"}], "max_tokens": 8} for number in range(5)]
    prompts.write_text("".join(json.dumps({**line, "expected": "It"}) + "\n" for line in lines))
    sizes = ["--prompts", str(prompts), "--requests", "4", "--rounds", "6", "--target", "0.001"]
    with scripted(Script()) as one, scripted(Script()) as other:
        asked = [one, "--baseline", other, *sizes, "--price-class", "aws-c7i-xlarge"]
        first = run(asked, tmp_path / "one")
        prompts.unlink()
        run(["--replay", str(tmp_path / "one")], tmp_path / "two")
        run(["--replay", str(tmp_path / "two")], tmp_path / "three")
    assert "A million output tokens, USD" in first.stdout
    kept = [(tmp_path / name / "prompts.jsonl").read_text("utf-8") for name in ("one", "two", "three")]
    assert kept[0] == kept[1] == kept[2]
    assert [json.loads(line) for line in kept[0].splitlines()] == [{**line, "expected": "It"} for line in lines[:4]]
    assert "prompts.jsonl" in (tmp_path / "one" / "SHA256SUMS").read_text()


def test_a_proof_that_is_told_to_end_takes_its_servers_along_and_keeps_what_it_has(tmp_path: Path) -> None:
    with scripted(Script()) as url:
        arguments = [*PROGRAM, "demo", "--baseline", url, "--rounds", "100", "-o", str(tmp_path / "bundle")]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert any(line.startswith("warming up the candidate") for line in process.stderr)
        process.terminate()
        assert "stopped; what was measured is kept in" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    raw = json.loads((tmp_path / "bundle" / "result.json").read_text())
    assert raw["status"] == "partial"
    log = (tmp_path / "bundle" / "logs" / "candidate.log").read_text()
    assert "shutting down" in log


def run(arguments: list[str], folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    found = subprocess.run([*PROGRAM, *arguments, "-o", str(folder)], capture_output=True, text=True, check=False)
    assert found.returncode == status, found.stderr
    return found


def test_bench_measures_a_server_with_the_same_core() -> None:
    with scripted(Script()) as url:
        result = CliRunner().invoke(group, ["bench", url, "--preset", "chat", "--repeats", "2", "--json"])
        figures = json.loads(result.stdout)
        assert figures["tokens_per_s"]["median"] > 0
        assert "start_s" not in figures
        result = CliRunner().invoke(group, ["bench", url, "--preset", "chat", "--dtype", "w8a8"])
    assert "as it is" in str(result.exception)
