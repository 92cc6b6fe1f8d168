"""Steps of every size before the first request: which there are, and that they leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import knobs

from tests.toys import build_engine
from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu import devices, rehearsal
from twofold.backends.gpu.batches import TILE_ROWS, bucket_of, is_decode
from twofold.backends.gpu.fused import KernelOps
from twofold.backends.gpu.rehearsal import Sizes, batch_of, rehearse, steps

ToyFolder = Callable[[str], tuple[Path, Any]]
SERVER = Sizes(sequences=64, rows=2048, context=8192, block_size=32, has_local=True)
TINY = Sizes(sequences=1, rows=1, context=1, block_size=1, has_local=False)


@pytest.mark.parametrize("sizes", [SERVER, TINY, Sizes(sequences=3, rows=40, context=9, block_size=4, has_local=True)])
def test_no_step_is_larger_than_what_can_come(sizes: Sizes) -> None:
    for counts in steps(sizes):
        assert 1 <= len(counts) <= sizes.sequences
        assert sum(counts) <= sizes.rows
        assert min(counts) >= 1
        assert max(counts) <= sizes.context


def test_every_number_of_decoding_sequences_has_its_step() -> None:
    found = [len(counts) for counts in steps(SERVER) if set(counts) == {1}]
    assert {bucket_of(rows) for rows in range(1, SERVER.sequences + 1)} <= set(found)
    assert all(is_decode(batch_of((1,) * count, SERVER)) for count in found)


def test_prompts_and_decoding_meet_in_one_step() -> None:
    assert any(min(counts) == 1 and max(counts) >= TILE_ROWS for counts in steps(SERVER))


def test_positions_go_on_and_nothing_is_kept() -> None:
    batch = batch_of((3, 1, 40), SERVER)
    assert batch.positions_T.tolist() == [0, 1, 2, 0, *range(40)]
    assert batch.starts_S.tolist() == [0, 3, 4, 44]
    assert batch.rows_R.tolist() == [2, 3, 43]
    assert batch.global_pages.blocks_SB.shape == (3, 2)
    assert set(batch.global_pages.slots_T.tolist()) == {-1}


def test_a_rehearsal_leaves_nothing_behind(toy_folder: ToyFolder) -> None:
    ops = KernelOps("cpu", CpuOps().packer, "f32")
    engine = build_engine(toy_folder("llama3-tied")[0], ops, "f32")
    block_size = engine.blocks.layout.block_size
    rehearse(
        ops, engine.forward, engine.cache, Sizes(sequences=2, rows=2, context=2, block_size=block_size, has_local=False)
    )
    for layer in engine.cache:
        assert not layer.keys.any()
        assert not layer.values.any()
        assert not layer.counters.any()


def test_only_kernels_that_were_compiled_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.compilation, "listener", None)
    told: list[str] = []
    rehearsal.on_compilation(told.append)
    listener: Any = knobs.compilation.listener
    for name, is_known in (("first", False), ("second", True)):
        source = type("Source", (), {"name": name})
        listener(src=source, metadata={}, metadata_group={}, times=None, cache_hit=is_known)
    assert told == ["first"]


def test_a_step_is_launched_on_the_device_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for name in ("cpu", "cuda", "cuda:1"):
        devices.use(torch.device(name))
    assert used == [torch.device("cuda", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["w4a8", "w8a8", "bf16", "fp8"])
def test_no_kernel_is_left_for_a_load_to_compile(dtype: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.backends.gpu.pretending", dtype, "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rehearsed"] > 20
    assert found["afterwards"] == []
