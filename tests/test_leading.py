"""A model on two ranks, in two processes, from the side of who uses it."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import started
from twofold import LLM, SamplingParams
from twofold.config import Settings, resolve
from twofold.errors import RankLost, SettingsError
from twofold.loading import open_model
from twofold.shares import share_of

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
SETTINGS: dict[str, Any] = {
    "backend": "gpu", "device": "cpu", "dtype": "w8a8", "context": 128, "max_sequences": 2, "prefix_cache": True,
    "step_tokens": 24,
}  # fmt: skip
PROMPTS = ["Once upon a time", "one two three four five six seven " * 6]


@pytest.fixture(scope="module")
def pair() -> Iterator[LLM]:
    import torch

    threads = torch.get_num_threads()
    llm = LLM("demo", **SETTINGS, ranks=2)
    yield llm
    llm.close()
    torch.set_num_threads(threads)


def test_two_ranks_answer_as_one(pair: LLM) -> None:
    alone = LLM("demo", **SETTINGS)
    for params in (SamplingParams(temperature=0.0, max_tokens=6), SamplingParams(seed=3, max_tokens=6)):
        expected, found = alone.generate(PROMPTS, params), pair.generate(PROMPTS, params)
        assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    ids = pair.encode(PROMPTS[1])
    assert np.array_equal(pair.logits(ids), alone.logits(ids))


def test_a_block_is_read_from_all_ranks_and_put_back_on_all(pair: LLM) -> None:
    ops, layers = pair.engine.ops, pair.engine.layers("global")
    pair.generate(PROMPTS, SamplingParams(max_tokens=1))
    content = ops.read_block(layers, 1)
    size = len(content) // 2
    assert ops.block_bytes(layers) == len(content)
    assert content[:size] != content[size:]
    other = np.random.default_rng(2).bytes(2 * size)
    ops.write_block(layers, 1, other)
    assert ops.read_block(layers, 1) == other
    ops.write_block(layers, 1, content)
    assert ops.read_block(layers, 1) == content
    with pytest.raises(ValueError, match="a block has"):
        ops.write_block(layers, 1, content[1:])


def test_a_second_model_on_ranks_is_refused_while_the_first_is_there(pair: LLM) -> None:
    with pytest.raises(SettingsError, match="one process has one model on several ranks"):
        LLM("demo", **SETTINGS, ranks=2)
    with pytest.raises(SettingsError, match="has one cache"):
        pair.with_kv_cache("f32")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ranks": 3}, "3 ranks cannot share 4 query heads evenly. Use --ranks 1, 2."),
        ({"ranks": 4}, "4 ranks cannot share 2 heads of keys and values evenly. Use --ranks 1."),
        ({"ranks": 2, "backend": "cpu"}, "2 ranks need the gpu backend, and cpu was chosen"),
        ({"ranks": 0}, "ranks is 0; it must be a whole number of at least 1"),
        ({"expert_split": "half"}, "expert_split is 'half'; it must be one of width, expert"),
    ],
)
def test_what_ranks_cannot_share_is_said_before_anything_starts(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        LLM("demo", **{**SETTINGS, **settings})
    assert said in str(error.value)


def test_every_weight_of_a_network_is_shared_or_whole() -> None:
    model = open_model("demo")
    settings = resolve(Settings(ranks=2), ("gpu", "cpu"), "w8a8", "bf16", 64, 1)
    parts = [share_of(model.architecture, settings, rank) for rank in range(2)]
    for target in model.targets:
        kinds = {part.cut(target).kind for part in parts}
        rows = sum(np.prod(part.cut(target).shape(target.shape)) for part in parts)
        whole = target.role in ("norm", "router")
        assert kinds == {"whole"} if whole else "whole" not in kinds, target.name
        assert rows == np.prod(target.shape) * (2 if whole else 1), target.name


def test_a_server_that_loses_a_rank_says_so_and_leaves(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--backend", "gpu", "--device", "cpu", "--tensor-parallel-size", "2", "--context", "256")
    with started(*options, log=log) as live:
        with live.client() as client:
            answer = client.completions.create(model="demo", prompt="one two", max_tokens=4, temperature=0)
            assert answer.choices[0].text
        (follower,) = children(live.process.pid)
        os.kill(follower, signal.SIGKILL)
        assert live.process.wait(30) == 1
    assert "error: rank 1 of the model ended (signal 9). Start again" in log.read_text()


def test_a_server_that_ends_takes_its_ranks_with_it() -> None:
    options = ("--backend", "gpu", "--device", "cpu", "--ranks", "2", "--context", "256")
    with started(*options) as live:
        (follower,) = children(live.process.pid)
        assert live.stop() == 0
        assert not is_running(follower)


@pytest.mark.slow
def test_a_server_that_is_killed_takes_its_ranks_with_it() -> None:
    with started("--backend", "gpu", "--device", "cpu", "--ranks", "2", "--context", "256") as live:
        (follower,) = children(live.process.pid)
        live.process.kill()
        live.process.wait()
        end = time.monotonic() + 30
        while is_running(follower) and time.monotonic() < end:
            time.sleep(0.05)
        assert not is_running(follower)


def children(parent: int) -> list[int]:
    """Processes that this one started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_lost_rank_ends_the_step_and_every_later_one(pair: LLM) -> None:
    assert pair.loaded.ranks is not None
    (process,) = pair.loaded.ranks._processes
    process.kill()
    for _ in range(2):
        with pytest.raises(RankLost, match=r"rank 1 of the model ended \(signal 9\)"):
            pair.generate(PROMPTS, SamplingParams(max_tokens=4))
    pair.close()
