from __future__ import annotations

import json
from pathlib import Path

import click.testing
import pytest

from tests.migrate.conftest import SAMPLES, source_of
from twofold.cli.migrate import command
from twofold.migrate.scan import Change, scan, write

APPLICATIONS = ("vllm", "ollama", "transformers", "langchain", "raw", "tgi", "llamacpp")


def run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(command, ["scan", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_sample_is_rewritten_and_then_clean_of_what_is_safe(samples: Path, name: str) -> None:
    before = scan(samples / name)
    assert before.safe
    assert any(not item.finding.is_safe for item in before.findings)
    assert run(str(samples / name), "--write").exit_code == 0
    after = scan(samples / name)
    assert after.safe == []
    assert after.changes == []
    assert (
        len(after.findings) >= len(before.findings) - len(before.safe) - 12
    )  # flags of commands that were written anew


def test_look_alikes_stay_as_they_are(samples: Path) -> None:
    before = {path: path.read_bytes() for path in (samples / "lookalike").rglob("*") if path.is_file()}
    assert scan(samples / "lookalike").safe == []
    run(str(samples), "--write")
    assert {path: path.read_bytes() for path in before} == before


def test_without_write_nothing_is_written_and_the_diff_is_shown(samples: Path) -> None:
    before = {path: path.read_bytes() for path in samples.rglob("*") if path.is_file()}
    shown = run(str(samples)).output
    assert '-    body = {"prompt": build(history, question), "stop": ["<|eot_id|>"]' in shown
    assert '+    body = {"prompt": build(history, question), "stop": ["<|eot|>"]' in shown
    assert "nothing was written" in shown
    assert {path: path.read_bytes() for path in before} == before


def test_launch_commands_become_ones_that_serve_understands(samples: Path) -> None:
    from twofold.cli.serve import command as serve
    from twofold.migrate.words import shell_words

    run(str(samples), "--write")
    commands = [
        (samples / name).read_text().split("twofold serve ", 1)[1]
        for name in ("vllm/serve.sh", "vllm/assistant.service", "tgi/run.sh", "llamacpp/Dockerfile")
    ]
    for text in commands:
        serve.make_context("serve", [word.text for word in shell_words(text, 0, len(text))])


def test_line_ends_and_encoding_are_kept(tmp_path: Path) -> None:
    cases = {
        "crlf.py": b'# \xe9\r\nstop = "<|eot_id|>"\r\n', "bom.json": b'\xef\xbb\xbf["<|eot_id|>"]',
        "wide.yaml": '\ufeffstop: "<|eot_id|>"\r\n'.encode("utf-16-le"), "latin.yaml": b"a: \xe9\nstop: '<|eot_id|>'",
    }  # fmt: skip
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "crlf.py").chmod(0o755)
    run(str(tmp_path), "--write")
    for name, data in cases.items():
        wide = name == "wide.yaml"
        old, new = ("<|eot_id|>".encode("utf-16-le"), "<|eot|>".encode("utf-16-le")) if wide else (b"eot_id", b"eot")
        expected = data.replace(old, new)
        assert (tmp_path / name).read_bytes() == (data if name == "crlf.py" else expected), name
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_keeps_its_mode_and_one_that_changed_meanwhile_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.sh"
    path.write_text('STOP="<|eot_id|>"\n')
    path.chmod(0o755)
    (change,) = scan(tmp_path).changes
    path.write_text('STOP="<|eot_id|>" # mine\n')
    assert write(change) == "it changed while it was read"
    (change,) = scan(tmp_path).changes
    assert write(change) is None
    assert (path.read_text(), path.stat().st_mode & 0o777) == ('STOP="<|eot|>" # mine\n', 0o755)


def test_a_file_that_may_not_be_written_is_named(ordinary_user: Path) -> None:
    (ordinary_user / "a.sh").write_text('STOP="<|eot_id|>"\n')
    (ordinary_user / "a.sh").chmod(0o444)
    (change,) = scan(ordinary_user).changes
    assert write(change) == "it may not be written to"


def test_json_has_every_finding_with_its_place(samples: Path) -> None:
    found = json.loads(run(str(samples / "raw"), "--json").stdout)
    assert found["safe"] + found["look"] == len(found["findings"])
    for item in found["findings"]:
        lines = (samples / "raw" / item["path"]).read_text().split("\n")
        assert lines[item["line"] - 1][item["column"] - 1 :].startswith(item["found"].split("\n")[0])
        assert all(item[name] for name in ("what", "becomes", "why", "rule", "confidence"))


def test_the_diff_of_settings_shows_no_lines_around_it() -> None:
    source = source_of('SECRET=hunter2\nSTOP="<|eot_id|>"\n', ".env")
    assert "hunter2" not in Change(source=source, text=source.text.replace("eot_id", "eot"), count=1).diff()


def test_llama_2_code_moves_to_llama_3_without_touching_llama_3s_tokens() -> None:
    found = scan(SAMPLES / "raw", "llama3")
    assert {item.finding.rule for item in found.findings} == {
        "llama2-turn", "llama2-system", "llama2-model", "prompt-by-hand", "own-template",
    }  # fmt: skip
    assert found.changes == []
