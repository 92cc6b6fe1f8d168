from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest

from tests.migrate.endpoints import misbehaving
from tests.server.conftest import started
from twofold.cli.migrate import command
from twofold.demo import data_folder

TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "parameters": {
            "type": "object", "properties": {"place": {"type": "string", "maxLength": 20}}, "required": ["place"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip
SCHEMA = {
    "type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"],
    "additionalProperties": False,
}  # fmt: skip
MAIN = [sys.executable, "-c", "from twofold.cli.main import main; main()", "migrate", "compare"]


def traffic(path: Path, count: int = 22) -> Path:
    """Questions of the evaluation, some with tools, some with a schema, and a broken line."""
    lines = (data_folder() / "evaluation.jsonl").read_text("utf-8").splitlines()[:count]
    requests: list[Any] = []
    for index, line in enumerate(lines):
        more: dict[str, Any] = {}
        if index % 7 == 5:
            more = {"tools": [TOOL], "tool_choice": "required"}
        if index % 7 == 6:
            more = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
        requests.append(json.dumps({"messages": json.loads(line)["messages"], "max_tokens": 40, **more}))
    path.write_text("\n".join([requests[0], "{broken", *requests[1:], '{"prompt": "The mayor of", "max_tokens": 4}']))
    return path


def run(*arguments: str | Path) -> click.testing.Result:
    return click.testing.CliRunner().invoke(command, ["compare", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    with started("--dtype", "bf16") as old, started("--dtype", "w8a8") as new:
        yield old.url, new.url


@pytest.fixture(scope="module")
def broken() -> Iterator[str]:
    with misbehaving() as (url, _):
        yield url


def test_two_live_servers_are_compared_to_a_go(urls: tuple[str, str], tmp_path: Path) -> None:
    prompts = traffic(tmp_path / "t.jsonl")
    found = run(
        "--old", urls[0], "--new", urls[1] + "/v1", "--prompts", prompts, "-o", tmp_path / "report",
        "--most-slowdown", "50", "--old-price", "gpu-h100-80gb", "--new-price", "aws-c7i-xlarge",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "warning: line 2" in found.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["go"], report["partial"], report["reasons"]) == (True, False, [])
    assert [item["line"] for item in report["bad_lines"]] == [2]
    figures = report["figures"]
    assert figures["pairs"] == figures["requests"] == 23
    assert figures["overlap"] > 0.9
    assert figures["new"]["tools_valid"] == figures["new"]["tools_judged"] == 3
    assert figures["new"]["forms_valid"] == figures["new"]["forms_judged"] == 3
    assert figures["old"]["prompt_tokens"] == figures["new"]["prompt_tokens"]
    assert figures["new"]["cost"] < figures["old"]["cost"]
    for pair in report["pairs"]:
        assert 0 < pair["new"]["first_token_s"] <= pair["new"]["total_s"]


def test_models_in_this_process_are_compared(tmp_path: Path) -> None:
    prompts = tmp_path / "t.jsonl"
    lines = (data_folder() / "evaluation.jsonl").read_text("utf-8").splitlines()[:6]
    prompts.write_text("\n".join(lines))  # their fields "answer" and "category" are told to have no effect
    found = run(
        "--old", "demo", "--new", "demo", "--new-dtype", "w8a8", "--prompts", prompts, "--threads", "1", "--limit", "5",
        "--least-prompts", "5", "--most-slowdown", "50", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["old"], report["new"]) == ("demo, bf16, in this process", "demo, w8a8, in this process")
    assert report["figures"]["requests"] == 5
    assert report["figures"]["exact"] == 1.0


@pytest.mark.parametrize("model", ["status", "garbage", "cut", "hangs-up", "fails"])
def test_a_broken_new_side_is_a_no_go_with_the_failures_as_findings(broken: str, tmp_path: Path, model: str) -> None:
    found = run(
        "--old", broken, "--new", broken, "--new-model", model, "-o", tmp_path,
        "--prompts", traffic(tmp_path / "t.jsonl"),
    )  # fmt: skip
    assert found.exit_code == 3
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["go"]
    assert sum(report["figures"]["new"]["failures"].values()) == 23
    assert report["figures"]["old"]["answered"] == 23
    assert any("failures of the new side: 23 of 23" in reason for reason in report["reasons"])


def test_calls_of_tools_that_were_not_offered_are_findings(broken: str, tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "Where?"}], "tools": [TOOL]}
    (tmp_path / "t.jsonl").write_text("\n".join([json.dumps(request)] * 3))
    for model, words in (("wrong-tool", "'delete_all' was not offered"), ("bad-arguments", "are no JSON")):
        found = run(
            "--old", broken, "--old-model", "calls", "--new", broken, "--new-model", model, "--json",
            "--prompts", tmp_path / "t.jsonl", "--least-prompts", "1", "--most-slowdown", "1000",
            "--least-agreement", "0",
        )  # fmt: skip
        report = json.loads(found.stdout)
        assert words in report["pairs"][0]["new"]["validity"]["problems"][0]
        assert report["reasons"] == ["valid tool calls: old 3 of 3, new 0 of 3; needed: share at most 2 points lower"]


def test_an_interruption_keeps_the_part_and_marks_it(tmp_path: Path) -> None:
    prompts = traffic(tmp_path / "t.jsonl")
    with misbehaving() as (url, seen), (tmp_path / "told").open("w") as sink:
        arguments = ["--old", url, "--new", url, "--new-model", "stalls", "--timeout", "60", "--prompts", str(prompts)]
        process = subprocess.Popen(
            [*MAIN, *arguments, "-o", str(tmp_path)], stdout=sink, stderr=sink,
            # ignored, where the tests run in the background of a shell, and a child inherits that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            while not any(body["model"] == "stalls" for body in seen):
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 3, (tmp_path / "told").read_text()
        finally:
            process.kill()
            process.wait()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["partial"], report["go"]) == (True, False)
    assert "not all requests were asked" in report["reasons"][0]
    assert (tmp_path / "report.html").read_text().count("<section class='verdict no'>") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--old", "http://u:p@h", "--new", "demo"], "an address with a user"),
        (["--old", "http://h", "--new", "http://h", "--new-dtype", "w8a8"], "is for a model that runs here"),
        (["--old", "demo", "--new", "demo", "--old-model", "x"], "is for an address"),
        (["--old", "demo", "--new", "demo", "--old-price", "nothing"], "the price book has no 'nothing'"),
    ],
)
def test_options_that_contradict_are_errors(arguments: list[str], words: str, tmp_path: Path) -> None:
    from twofold.errors import SettingsError

    with pytest.raises(SettingsError, match=words):
        run(*arguments, "--prompts", traffic(tmp_path / "t.jsonl", 1))
