"""What is made of a llama-batched-bench and its table."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.protocol import EngineFailed, Request, Task
from benchmarks.peers.run_batched_bench import arguments, groups, measure, parse_row

LINE = "|   512 |     32 |    4 |   2176 |    3.125 |   163.84 |    2.000 |    64.00 |    5.125 |   424.59 |"
TASKS = (Task(prompt=1), Task(prompt=1, sequences=4), Task(prompt=512), Task(prompt=4096))
FAKE = """#!{python}
import sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("llama_model_loader: noise")
for prompt in given["-npp"].split(","):
    for count in given["-npl"].split(","):
        counts = f"|{{prompt:>6}} | {{given['-ntg']:>6}} | {{count:>4}} | 99 |"
        print(counts, f"0.010 | {{int(prompt) * 2}}.00 | 0.010 | 7.50 | 1.0 | 1.0 |")
sys.exit({code})
"""


def request_for(program: Path) -> Request:
    return Request(weights="toy.gguf", threads=2, tasks=TASKS, options={"program": str(program), "version": "fake"})


def write_program(folder: Path, code: int = 0) -> Path:
    path = folder / "fake-batched-bench"
    path.write_text(FAKE.format(python=sys.executable, code=code))
    path.chmod(0o755)
    return path


def test_a_row_is_read_and_other_lines_are_not() -> None:
    row = parse_row(LINE)
    assert row is not None
    assert (row.prompt, row.steps, row.sequences) == (512, 32, 4)
    assert (row.read_s, row.read_tokens_per_s, row.decode_s, row.decode_tokens_per_s) == (3.125, 163.84, 2.0, 64.0)
    assert parse_row("|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |") is None


def test_prompts_that_run_with_the_same_batches_share_a_process() -> None:
    assert groups(TASKS) == [([1], [1, 4]), ([512, 4096], [1])]


def test_the_context_holds_every_sequence_in_whole_cells() -> None:
    given = arguments(request_for(Path("program")), [1], [1, 4])
    assert given[given.index("-c") + 1] == str(4 * 256)
    given = arguments(request_for(Path("program")), [512, 4096], [1])
    assert given[given.index("-c") + 1] == str(4096 + 256)
    assert given[given.index("-npp") + 1] == "512,4096"


def test_rows_of_all_processes_become_one_report(tmp_path: Path) -> None:
    report = measure(request_for(write_program(tmp_path)))
    assert report.version == "fake"
    assert report.rates == {"1x1": (2.0, 7.5), "1x4": (2.0, 7.5), "512x1": (1024.0, 7.5), "4096x1": (8192.0, 7.5)}
    assert report.peak_memory_bytes > 2**20


def test_a_program_that_crashes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="fake-batched-bench ended with code 3"):
        measure(request_for(write_program(tmp_path, code=3)))


def test_a_program_that_feeds_one_token_answers_for_both_kinds_of_tasks(tmp_path: Path) -> None:
    asked = request_for(write_program(tmp_path))
    tasks = (*TASKS, Task(prompt=1, sequences=4, is_alike=True))
    usual = measure(replace(asked, tasks=tasks))
    alike = measure(replace(asked, tasks=tasks, options={**asked.options, "is_alike": True}))
    assert "1x4 alike" not in usual.rates
    assert alike.rates["1x4 alike"] == alike.rates["1x4"] == usual.rates["1x4"]
