"""Every verb as a user types it: the installed command, its output, its exit status."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.weights.make_gguf import write_gguf
from twofold.demo import model_folder

COMMAND = str(Path(sys.executable).parent / "twofold")


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=120)


def test_the_demo_answers_and_tells_its_speed() -> None:
    result = run("demo")
    assert result.returncode == 0, result.stderr
    line = result.stdout.strip().splitlines()[-1]
    for words in ("prefill", "decode", "GB/s of weights read", "memory limit", "peak memory"):
        assert words in line


def test_run_prints_the_answer_on_stdout_and_the_figures_on_stderr() -> None:
    result = run("run", "demo", "Hello!", "--temperature", "0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "tokens/s" not in result.stdout
    assert "decode" in result.stderr


def test_run_reads_stdin_and_continues_raw_text() -> None:
    result = run("run", "demo", "--raw", "--quiet", "--max-tokens", "5", "--seed", "1", stdin="import os\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "./nowhere", "x"), "nowhere"),
        (("run", "demo", "x", "--temperature", "-1"), "temperature is -1.0"),
        (("run", "demo", "x", "--top-p", "nan"), "top_p is nan"),
        (("run", "demo", "x", "--context", "9999"), "at most 2048"),
        (("run", "demo", "word " * 5000), "this engine holds 2048"),
        (("run", "demo", " "), "prompt is empty"),
        (("info", "./nowhere"), "nowhere"),
        (("run", "no/such-model", "x"), "no/such-model"),
        (("quantize", "demo", "-o", "unwritten", "--scheme", "mixed", "--budget", "4bit"), "the least is 4.275bit"),
        (("quantize", "demo", "-o", "unwritten", "--scheme", "mixed", "--budget", "4"), "4.3bit"),
        (("quantize", "demo", "-o", "unwritten", "--budget", "5bit"), "--budget is for --scheme mixed"),
        (("eval", "demo", "--limit", "3"), "--limit needs --tasks"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_non_zero_exit(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.returncode != 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    last = max(token["id"] for token in tokenizer["added_tokens"])
    extra = {**tokenizer["added_tokens"][-1], "id": last + 1, "content": "<|one_too_many|>"}
    tokenizer["added_tokens"].append(extra)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run("run", str(folder), "x")
    assert result.returncode == 1
    assert str(config["vocab_size"]) in result.stderr


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = run("run", str(folder), "x")
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr
    assert "1000 bytes" in result.stderr or "1,000 bytes" in result.stderr


def test_info_tells_bytes_and_cost() -> None:
    result = run("info", "demo")
    assert result.returncode == 0, result.stderr
    for words in ("8 experts, 1 active", "chunks of 256", "read per token", "w4a8", "2,048 tokens"):
        assert words in result.stdout


def test_a_gguf_file_is_described_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    write_gguf(model_folder(), path, "Q8_0")
    result = run("info", str(path))
    assert result.returncode == 0, result.stderr
    for words in ("Llama 4 text", "8 experts, 1 active", "tensors by type: 42 Q8_0, 13 F32"):
        assert words in result.stdout
    result = run("run", str(path), "Hello!", "--temperature", "0", "--dtype", "w8a8")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    path.write_bytes(path.read_bytes()[:-5000])
    result = run("run", str(path), "Hello!")
    assert result.returncode == 1
    assert "truncated" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_four_bit_gguf_file_runs_and_is_packed_as_it_is(tmp_path: Path) -> None:
    path, folder = tmp_path / "demo.gguf", tmp_path / "packed"
    write_gguf(model_folder(), path, "Q4_0")
    result = run("info", str(path))
    assert result.returncode == 0, result.stderr
    assert "Kept in bf16 with gguf weights" in result.stdout
    assert run("pack", str(path), "-o", str(folder)).returncode == 0
    answers = [run("run", str(model), "Hello!", "--temperature", "0") for model in (path, folder)]
    assert answers[0].stdout == answers[1].stdout != ""
    assert all("gguf, bf16 cache" in answer.stderr for answer in answers)
    result = run("eval", str(path), "--gate-kv")
    assert result.returncode == 1
    assert "twofold pack" in result.stderr


def test_doctor_measures_the_machine() -> None:
    result = run("doctor")
    assert result.returncode == 0, result.stderr
    for words in ("instruction sets", "chosen", "GB/s", "TOP/s", "huge pages"):
        assert words in result.stdout


def test_bench_measures_every_workload_the_context_holds() -> None:
    result = run("bench", "demo", "--repeats", "1", "--context", "600", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    names = [item["name"] for item in found["speeds"]]
    assert names[:3] == ["prefill 128", "prefill 512", "decode"]
    assert "decode at depth 1024" not in names
    assert all(item["tokens_per_s"] > 0 for item in found["speeds"])
    assert found["read_limit_bytes_per_s"] > 0
    assert found["settled_s"] >= found["load_s"] > 0


def test_a_draft_model_changes_the_figures_and_not_the_answer() -> None:
    plain, drafted = (run("run", "demo", "Hello!", "--temperature", "0", *more) for more in ((), ("--draft", "demo")))
    assert drafted.returncode == 0, drafted.stderr
    assert drafted.stdout == plain.stdout
    assert "draft model" in drafted.stderr
    assert "draft model" not in plain.stderr


def test_bench_with_a_draft_model_measures_guessing() -> None:
    result = run("bench", "demo", "--repeats", "1", "--context", "400", "--json", "--draft", "demo")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["guessing"]
    assert {item["way"] for item in found} == {"no guesses", "look-up", "look-up and draft"}
    assert all(item["tokens"] == 96 and item["tokens_per_s"] > 0 for item in found)
    short = run("bench", "demo", "--repeats", "1", "--context", "150", "--json", "--draft", "demo")
    assert short.returncode == 1
    assert "Raise --context" in short.stderr


def test_a_packed_folder_runs(tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    assert run("pack", "demo", "-o", str(folder)).returncode == 0
    result = run("run", str(folder), "Hello!", "--max-tokens", "5")
    assert result.returncode == 0, result.stderr
    assert "w4a8" in result.stderr
    again = run("pack", "demo", "-o", str(folder))
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_evaluate_prints_one_json_line_per_dtype() -> None:
    result = run("demo", "--evaluate", "--questions", "4", "--json")
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [item["dtype"] for item in found] == ["bf16", "w8a8", "w4a8"]
    assert found[0]["kl_mean"] == 0.0
    assert found[1]["kl_mean"] > 0.0


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_tasks_without_lm_eval_name_what_to_install() -> None:
    result = run("eval", "demo", "--tasks", "arc_easy")
    assert result.returncode == 1
    assert "pip install 'twofold[eval]'" in result.stderr


class Terminal:
    """`twofold` in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, where the tests run in the background of a shell
            os.execv(COMMAND, [COMMAND, *arguments])
        self.seen = ""

    def read_until(self, words: str) -> None:
        while words not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], 30)
            assert ready, f"{words!r} did not come; seen: {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.split(words, 1)[1]

    def read_some(self) -> None:
        ready, _, _ = select.select([self.fd], [], [], 30)
        assert ready, "nothing came"
        self.seen += os.read(self.fd, 4096).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_chat_answers_forgets_and_ends() -> None:
    terminal = Terminal("chat", "demo", "--temperature", "0")
    terminal.read_until("> ")
    terminal.type("Hello!\n")
    terminal.read_until("Hello!\r\n")
    terminal.read_until("> ")
    terminal.type("/reset\n")
    terminal.read_until("(forgotten)")
    terminal.read_until("> ")
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    terminal = Terminal(
        "chat", "demo", "--temperature", "50", "--top-p", "1", "--seed", "3", "--backend", "reference"
    )  # slow
    terminal.read_until("> ")
    terminal.type("Tell me more\n")
    terminal.read_until("Tell me more\r\n")
    terminal.read_some()
    os.kill(terminal.pid, signal.SIGINT)
    terminal.read_until("(stopped)")
    terminal.read_until("> ")
    os.kill(terminal.pid, signal.SIGINT)
    terminal.type("\n")  # a signal between the prompt and the wait behind it is only seen with the next line
    terminal.read_until("/exit leaves")
    terminal.type("/exit\n")
    assert terminal.exit_status() == 0


def test_a_tested_model_says_so_and_uses_int8_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(), folder)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog.\n" * 240)
    assert "bf16 weights: int8 was not tested" in run("info", str(folder)).stdout
    result = run("eval", str(folder), "--gate-kv", "--text", str(text))
    assert result.returncode == 0, result.stderr
    verdict = json.loads(result.stdout.strip().splitlines()[-1])
    assert verdict["longest"] == 2048
    assert verdict["passed"] is True
    assert "Kept in int8 with bf16 weights: int8 passed its test" in run("info", str(folder)).stdout
    warned = run("run", str(folder), "Hello!", "--dtype", "w8a8", "--kv-cache-dtype", "int8", "--max-tokens", "3")
    assert "warning: keys and values are kept in int8 as asked for, but int8 was tested with bf16" in warned.stderr
    refused = run("eval", str(folder), "--gate-kv", "--against", "demo")
    assert refused.returncode != 0
    assert "compares the model with itself" in refused.stderr
    text.write_text("Too short.")
    short = run("eval", str(folder), "--gate-kv", "--text", str(text))
    assert "one whole context" in short.stderr
    assert "Traceback" not in short.stderr
