"""An exported folder used as any other model: by LLM, by the verbs, by the server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.export.conftest import Exported
from tests.export.graphs import TARGETS
from twofold.api import LLM, SamplingParams
from twofold.bench.quality import layer_errors
from twofold.errors import SettingsError

GREEDY = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
PROGRAM = "from twofold.cli.main import main; main()"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("target", TARGETS)
def test_a_graph_answers_as_the_native_backend_does(target: str, exported: Exported) -> None:
    checkpoint, folder = exported("demo", target)
    prompts = ["Hello!", "Once upon a time " * 60, "def f(x):"]
    native = LLM(checkpoint, dtype="f32", backend="cpu")
    graph = LLM(folder, backend="onnx")
    expected = [item.token_ids for item in native.generate(prompts, GREEDY)]
    assert [item.token_ids for item in graph.generate(prompts, GREEDY)] == expected
    assert (graph.loaded.settings.backend, graph.loaded.settings.dtype) == ("onnx", "f32")


def test_guesses_and_kept_prefixes_change_no_answer(exported: Exported) -> None:
    _, folder = exported("demo", "onnxruntime")
    prompt = "one two three four " * 20
    plain = LLM(folder, guess_tokens=0).generate(prompt, GREEDY)[0].token_ids
    guessing = LLM(folder, prefix_cache=True)
    assert guessing.generate(prompt, GREEDY)[0].token_ids == plain
    again = guessing.generate(prompt, GREEDY)[0]
    assert again.token_ids == plain
    assert again.steps < len(plain)


def test_an_exported_folder_needs_no_option_to_run(exported: Exported) -> None:
    _, folder = exported("demo", "portable")
    result = run("run", str(folder), "Hello!", "--max-tokens", "8", "--temperature", "0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Hello! How can I help you?")
    assert "f32, f32 cache, onnx" in result.stderr
    told = run("info", str(folder)).stdout
    assert "an exported graph takes keys and values as f32" in told


def test_what_a_graph_cannot_do_is_said(exported: Exported) -> None:
    checkpoint, folder = exported("demo", "portable")
    with pytest.raises(SettingsError, match="only backend onnx runs"):
        LLM(folder, backend="cpu")
    with pytest.raises(SettingsError, match="write one: twofold export MODEL -o DIR"):
        LLM(checkpoint, backend="onnx")
    with pytest.raises(SettingsError, match="takes them as f32 only"):
        LLM(folder, kv_cache_dtype="int8")
    with pytest.raises(SettingsError, match="this folder holds f32 weights"):
        LLM(folder, dtype="w4a8")
    with pytest.raises(SettingsError, match=r"no CUDAExecutionProvider.*onnxruntime-gpu has it"):
        LLM(folder, device="cuda")
    with pytest.raises(SettingsError, match="must be one of cpu, cuda"):
        LLM(folder, device="xpu")
    llm = LLM(folder)
    with pytest.raises(SettingsError, match="takes them as f32 only"):
        llm.with_kv_cache("int8")
    with pytest.raises(SettingsError, match="layers cannot be watched"):
        layer_errors(llm, llm, [])


def test_a_graph_drafts_for_a_checkpoint_and_a_checkpoint_for_a_graph(exported: Exported) -> None:
    checkpoint, folder = exported("demo", "portable")
    plain = LLM(folder, guess_tokens=0).generate("Once upon", GREEDY)[0].token_ids
    for model, draft in ((folder, checkpoint), (checkpoint, folder)):
        answer = LLM(model, draft=draft, dtype="f32", backend="onnx" if model == folder else "cpu")
        assert answer.generate("Once upon", GREEDY)[0].token_ids == plain


def test_the_export_verb_writes_a_folder_and_says_what_it_wrote(tmp_path: Path) -> None:
    result = run("export", "demo", "-o", str(tmp_path / "out"), "--target", "onnxruntime", "--dtype", "int4")
    assert result.returncode == 0, result.stderr
    assert "onnxruntime, int4" in result.stdout
    assert json.loads((tmp_path / "out" / "export.json").read_text())["dtype"] == "int4"
    again = run("export", "demo", "-o", str(tmp_path / "out"))
    assert again.returncode == 1
    assert "exists; name a folder that does not" in again.stderr


def test_the_server_serves_a_graph(exported: Exported) -> None:
    _, folder = exported("demo", "onnxruntime")
    command = [sys.executable, "-c", PROGRAM, "serve", str(folder), "--port", "0", "--backend", "onnx"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            ready = next(line for line in process.stderr if line.startswith("ready: "))
            with openai.OpenAI(base_url=ready.removeprefix("ready: ").strip() + "/v1", api_key="none") as client:
                model = client.models.list().data[0].id
                answer = client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Hello!"}], temperature=0, max_tokens=8
                )
            assert answer.choices[0].message.content == "Hello! How can I help you?"
        finally:
            process.terminate()
