"""Quantising in little memory, and through kills: whole processes, as a user runs them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.fuzz.seeds import tokenizer_folders
from tests.toys import LLAMA4
from tests.weights.make import llama4_config, llama4_shapes, write_checkpoint
from twofold.loading import open_model
from twofold.quant.report import REPORT

pytestmark = pytest.mark.slow
PATIENCE_S = 1800
COMMAND = [sys.executable, "-c", "from twofold.cli.main import main; main()", "quantize"]
WORDS = ["Hello", "well", "yes", "no", "all", "hell", "tell", "be"]


def write_model(folder: Path, layers: int, hidden: int, width: int, experts: int) -> int:
    """A random Llama 4, every layer with experts, and a small tokenizer beside it; returns the bytes of its weights."""
    values: Mapping[str, Any] = {
        **LLAMA4,
        **{"num_hidden_layers": layers, "no_rope_layers": [], "interleave_moe_layer_step": 1, "vocab_size": 512},
        **{"hidden_size": hidden, "head_dim": hidden // 8, "num_attention_heads": 8, "num_local_experts": experts},
        **{"intermediate_size": width, "intermediate_size_mlp": width, "attention_chunk_size": 64},
        "max_position_embeddings": 4096,
    }
    write_checkpoint(folder, llama4_shapes(values), shards=4)
    for name, data in tokenizer_folders()[0].items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(llama4_config(values)))
    text = " ".join(random.Random(1).choice(WORDS) for _ in range(600))
    (folder / "text.txt").write_text(text)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def command(folder: Path, output: Path, scheme: str) -> list[str]:
    """What a user types."""
    return [*COMMAND, str(folder), "-o", str(output), "--scheme", scheme, "--calibration", str(folder / "text.txt")]


@dataclass(frozen=True)
class MemoryGroup:
    """A cgroup for memory; files of its version."""

    path: Path
    limit: str
    peak: str


@pytest.fixture
def memory_group() -> Iterator[MemoryGroup]:
    """A cgroup whose memory can be limited; skipped where none can be made (no root, no such controller)."""
    name = f"twofold-{uuid4().hex[:8]}"
    for root, limit, peak in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        ("/sys/fs/cgroup", "memory.max", "memory.peak"),
    ):
        path = Path(root) / name
        try:
            path.mkdir()
        except OSError:
            continue
        if (path / limit).exists():
            yield MemoryGroup(path, limit, peak)
            path.rmdir()
            return
        path.rmdir()
    pytest.skip("no cgroup with a memory limit can be made here")


def test_a_checkpoint_three_times_the_memory_is_quantised(memory_group: MemoryGroup, tmp_path: Path) -> None:
    """Page cache counts too and is given back on demand; swap, where there is any, is left out of it.

    A layer has 10 MB; 119 MB was the most anonymous memory seen, of which 35 MB are the interpreter and its packages.
    """
    size = write_model(tmp_path / "source", layers=46, hidden=256, width=384, experts=16)
    allowed = size // 3
    (memory_group.path / memory_group.limit).write_text(str(allowed))
    for swap, value in (("memory.memsw.limit_in_bytes", str(allowed)), ("memory.swap.max", "0")):
        if (memory_group.path / swap).exists():
            (memory_group.path / swap).write_text(value)
    enter = f'echo $$ > {memory_group.path}/cgroup.procs && exec "$@"'
    run = ["sh", "-c", enter, "sh", *command(tmp_path / "source", tmp_path / "out", "w8a8")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert {row["method"] for row in report["matrices"]} == {"gptq"}
    assert open_model(tmp_path / "out").quantised_dtype == "w8a8"
    if (memory_group.path / memory_group.peak).exists():
        assert int((memory_group.path / memory_group.peak).read_text()) <= allowed


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def killed_after(run: list[str], seconds: float) -> bool:
    """Start it and kill it; whether it was still at work."""
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    process.kill()
    return process.wait() != 0


def test_runs_killed_at_ten_random_moments_give_the_same_bits(tmp_path: Path) -> None:
    """Moments are shares of what a whole run takes; one that comes too late is drawn again."""
    write_model(tmp_path / "source", layers=4, hidden=64, width=64, experts=4)
    began = time.monotonic()
    subprocess.run(command(tmp_path / "source", tmp_path / "whole", "w4a8"), check=True, capture_output=True)
    whole_s = time.monotonic() - began
    expected = digests(tmp_path / "whole")
    moments = random.Random(20251126)
    kills = 0
    while kills < 10:
        output = tmp_path / f"out-{kills}"
        run = command(tmp_path / "source", output, "w4a8")
        if not killed_after(run, moments.uniform(0.05, 0.95) * whole_s) or output.exists():
            whole_s *= 0.8
            assert digests(output) == expected
            shutil.rmtree(output)
            continue
        kills += 1
        subprocess.run(run, check=True, capture_output=True)
        assert digests(output) == expected
        assert not output.with_name(output.name + ".partial").exists()
