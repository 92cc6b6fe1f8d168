"""A step that is played from a record gives what it gives when its kernels are called one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toys import build_engine
from twofold.backends.cpu import replay
from twofold.backends.cpu.ops import CpuOps
from twofold.backends.cpu.replay import Replayed, Workspace, is_short
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.ops.observe import ExpertLoad, Residuals

ToyFolder = Callable[[str], tuple[Path, Any]]
PROMPTS = ([7, 3, 5, 9, 11, 2, 8], [4, 4, 6], [13])
DIFFERENT_LENGTHS = (41, 12, 30)
GREEDY = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)


def replaying(engine: Engine) -> Replayed:
    engine.forward = Replayed(engine.ops, engine.forward)
    return engine.forward


def run(engine: Engine) -> list[np.ndarray]:
    """Logits of every step of three answers, which end one after the other."""
    forward, found = engine.forward, []

    def noting(*given: Any) -> Any:
        found.append(np.array(logits_RV := forward(*given)))
        return logits_RV

    engine.forward = noting
    for prompt, length in zip(PROMPTS, DIFFERENT_LENGTHS, strict=True):
        engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True))
    while not engine.is_idle:
        engine.step()
    engine.forward = forward
    return found


@pytest.mark.parametrize("dtype", ["f32", "w8a8", "w4a8"])
@pytest.mark.parametrize("name", ["scout", "interleaved-qk-norm", "two-active-experts", "llama3-tied"])
def test_played_steps_have_the_bits_of_plain_ones(name: str, dtype: str, toy_folder: ToyFolder) -> None:
    folder, _ = toy_folder(name)  # positions up to 47 cross chunks of 8, blocks and the temperature's steps of 4
    expected = run(build_engine(folder, CpuOps(threads=2), dtype))
    engine = build_engine(folder, CpuOps(threads=2), dtype)
    replayed = replaying(engine)
    found = run(engine)
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert 3 <= len(replayed._recordings) < len(found) / 3, "one, two and three sequences, and wider tables perhaps"


def test_logits_stay_as_they_are_when_the_next_step_has_run(toy_folder: ToyFolder) -> None:
    engine = build_engine(toy_folder("scout")[0], CpuOps())
    replaying(engine)
    forward, held, copies = engine.forward, [], []

    def holding(*given: Any) -> Any:
        held.append(forward(*given))
        copies.append(held[-1].copy())
        return held[-1]

    engine.forward = holding
    engine.add([5, 6], GREEDY)
    while not engine.is_idle:
        engine.step()
    assert all(np.array_equal(a, b) for a, b in zip(held, copies, strict=True))


def test_guessed_tokens_are_rows_of_one_sequence(toy_folder: ToyFolder) -> None:
    """score asks for all rows of a text, as a step with guesses does."""
    folder, _ = toy_folder("scout")
    texts = [[3, 9, 4, 1, 7], [8, 2, 2, 6, 5], [1, 2, 3], [9, 9, 8]]
    expected = [np.concatenate(list(build_engine(folder, CpuOps()).score(text))) for text in texts]
    engine = build_engine(folder, CpuOps())
    replayed = replaying(engine)
    found = [np.concatenate(list(engine.score(text))) for text in texts]
    assert len(replayed._recordings) == 2
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_experts_are_counted_in_played_steps_too(toy_folder: ToyFolder) -> None:
    counts = []
    for replays in (False, True):
        engine = build_engine(toy_folder("scout")[0], CpuOps())
        if replays:
            replaying(engine)
        engine.ops = watched = ExpertLoad(engine.ops)
        run(engine)
        counts.append([count_E.tolist() for count_E in watched.counted()])
    assert counts[0] == counts[1]
    assert len(counts[0]) == 4


def test_whoever_wants_to_see_every_op_sees_it(toy_folder: ToyFolder) -> None:
    engine = build_engine(toy_folder("llama3-tied")[0], CpuOps())
    replayed = replaying(engine)
    engine.ops = watching = Residuals(engine.ops)
    engine.add([5, 6], GREEDY)
    while not engine.is_idle:
        engine.step()
    assert not replayed._recordings
    assert len(watching.take_all()) == GREEDY.max_tokens * 2 * 3


def test_a_step_that_fails_leaves_no_record(toy_folder: ToyFolder) -> None:
    folder, _ = toy_folder("llama3-tied")
    engine = build_engine(folder, CpuOps())
    forward = engine.forward
    fails = [True]

    def failing(ops: Any, batch: Any, cache: Any) -> Any:
        logits_RV = forward(ops, batch, cache)
        if is_short(batch) and fails.pop():
            fails.append(False)
            raise RuntimeError("the step failed")
        fails.append(False)
        return logits_RV

    engine.forward = failing
    replayed = replaying(engine)
    engine.add([5], GREEDY)
    with pytest.raises(RuntimeError, match="the step failed"):
        engine.step()
    assert not replayed._recordings
    expected = np.concatenate(list(build_engine(folder, CpuOps()).score([5, 6, 7])))
    fresh = build_engine(folder, engine.ops)
    assert np.array_equal(np.concatenate(list(fresh.score([5, 6, 7]))), expected), "nothing is recorded any more"


def test_a_played_step_refuses_what_a_plain_one_refuses(toy_folder: ToyFolder) -> None:
    engine = build_engine(toy_folder("llama3-tied")[0], CpuOps())
    replaying(engine)
    batches = []
    forward = engine.forward

    def noting(ops: Any, batch: Any, cache: Any) -> Any:
        batches.append((batch, cache))
        return forward(ops, batch, cache)

    engine.forward = noting
    engine.add([5], GREEDY)
    for _ in range(3):
        engine.step()
    batch, cache = batches[-1]
    batch.global_pages.slots_T[:] = 10**9
    with pytest.raises(ValueError, match="slots_T holds 1000000000"):
        forward(engine.ops, batch, cache)


def test_only_the_latest_shapes_are_remembered(toy_folder: ToyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST_RECORDINGS", 2)
    engine = build_engine(toy_folder("llama3-tied")[0], CpuOps())
    replayed = replaying(engine)
    for length in (1, 2, 3, 2, 4):
        list(engine.score([5] * length))
    assert [key[2] for key in replayed._recordings] == [2, 4]


def test_long_steps_and_steps_with_unwanted_rows_run_as_they_come(toy_folder: ToyFolder) -> None:
    engine = build_engine(toy_folder("llama3-tied")[0], CpuOps(), step_tokens=64)
    replayed = replaying(engine)
    engine.add([5] * 30, SamplingParams(temperature=0.0, max_tokens=1))
    engine.step()
    assert not replayed._recordings


def test_memory_is_used_again_when_no_view_of_it_is_left() -> None:
    workspace = Workspace()
    workspace.clear()
    first = workspace.floats((4, 8))
    view = first[:, :3]
    second = workspace.floats((4, 8))
    assert not np.shares_memory(first, second)
    place = first.ctypes.data
    del first
    third = workspace.floats((2, 16))
    assert not np.shares_memory(view, third), "a view is left"
    del view
    assert workspace.floats((2, 16)).ctypes.data == place


def test_steps_of_all_sizes_take_little_more_memory_than_the_largest() -> None:
    workspace = Workspace()
    for rows in range(1, 65):
        workspace.clear()
        kept = [workspace.floats((rows, 1000)) for _ in range(3)]
        assert all(not np.shares_memory(kept[0], other) for other in kept[1:])
    assert workspace.size_bytes <= 2 * 3 * 4 * 65536
