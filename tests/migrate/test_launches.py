from __future__ import annotations

import pytest

from tests.migrate.conftest import found_in


def launch(text: str, name: str) -> list[tuple[str, bool]]:
    return [(item.becomes, item.is_safe) for item in found_in(text, name) if item.rule == "launch"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sh", "vllm serve m --host h"),
        ("a.sh", "cd x && nohup vllm serve m --host h &"),
        ("a.sh", "CUDA_VISIBLE_DEVICES=0 python3 -m vllm.entrypoints.openai.api_server --model m --host h"),
        ("a.service", "ExecStart=vllm serve m --host h"),
        ("Dockerfile", "CMD vllm serve m --host h"),
        ("package.json", '{"scripts": {"start": "vllm serve m --host h"}}'),
        ("compose.yaml", "    command: vllm serve m --host h"),
    ],
)
def test_a_command_where_commands_stand_is_written_anew(name: str, text: str) -> None:
    assert launch(text, name) in ([("twofold serve m --host h", True)], [("twofold serve MODEL", False)])
    assert launch(text, name) == [("twofold serve m --host h", True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.sh", 'echo "now start vllm serve by hand"'),
        ("a.sh", "# vllm serve m"),
        ("a.py", 'raise OSError("no server; vllm serve m was expected")'),
        ("a.py", 'subprocess.run("vllm serve m --port 8000")'),
        ("a.py", 'subprocess.run(["vllm", "serve", model, "--max-model-len", "8192"])'),
    ],
)
def test_anywhere_else_it_is_told(name: str, text: str) -> None:
    found = launch(text, name)
    assert len(found) == 1
    assert found[0][0].startswith("twofold serve")
    assert not found[0][1]


def test_flags_of_a_list_and_of_an_image_are_told_one_by_one() -> None:
    text = 'run(["vllm", "serve", "m", "--max-model-len", "8192", "--swap-space", "4"])'
    found = {item.found: item.becomes for item in found_in(text) if item.rule == "launch-flag"}
    assert found == {"--max-model-len 8192": "--context", "--swap-space 4": "nothing: leave it out"}
    text = "docker run --gpus all -p 80:80 vllm/vllm-openai:v0.6.3 --model m --max-model-len 4096"
    found = {item.found: item.becomes for item in found_in(text, "a.sh") if item.rule == "launch-flag"}
    assert found == {"--model m": "MODEL", "--max-model-len 4096": "--context"}


def test_the_command_beside_an_image_is_read_and_no_other_services() -> None:
    text = (
        "services:\n  a:\n    command: [--model, m, --seed, '1']\n    image: vllm/vllm-openai\n"
        "  b:\n    image: nginx\n    command: --max-model-len 5\n"
    )
    found = [item.found for item in found_in(text, "compose.yaml") if item.rule == "launch-flag"]
    assert found == ["--model m", "--seed 1"]
    text = (
        "containers:\n  - name: a\n    image: nginx\n    args: [--seed, '2']\n"
        "  - name: b\n    image: vllm/vllm-openai:v1\n    args:\n    - --max-model-len=5\n    - --dtype\n    - half\n"
    )
    found = [item.found for item in found_in(text, "pod.yaml") if item.rule == "launch-flag"]
    assert found == ["--max-model-len=5", "--dtype half"]


def test_ollamas_commands_say_what_takes_their_place() -> None:
    found = launch("ollama pull llama3\nollama serve\n", "a.sh")
    assert [item[0].split()[0] for item in found] == ["nothing:", "twofold"]


def test_names_in_the_environment() -> None:
    found = {item.found: item.becomes for item in found_in("OLLAMA_NUM_PARALLEL=4\nMODEL_ID=x\n", ".env")}
    assert found == {"OLLAMA_NUM_PARALLEL": "--max-num-seqs"}
