"""Steps launched behind others in torch: answers are those of one step after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toys import build_engine
from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu import drawing
from twofold.backends.gpu.batches import DeviceBatch
from twofold.backends.gpu.graphs import Slot
from twofold.backends.gpu.ops import TorchOps
from twofold.backends.gpu.sampling import Draws, sample
from twofold.engine.request import SamplingParams
from twofold.ops.types import Batch, Pages, RowSampling

ToyFolder = Callable[[str], tuple[Path, Any]]
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0}, {"temperature": 0.8}, {"temperature": 0.9, "top_p": 0.9}, {"top_k": 5, "logprobs": 2},
    {"temperature": 0.0, "repetition_penalty": 1.3}, {"min_tokens": 4}, {"presence_penalty": 0.5, "top_p": 0.7},
]  # fmt: skip


class Behind(TorchOps):
    """Steps follow one another at once, as on a device with graphs. behind: how many did."""

    runs_ahead = True
    behind = 0

    def upload_after(self, batch: Batch, before: Draws, rows: Sequence[int]) -> DeviceBatch:
        self.behind += 1
        return super().upload_after(batch, before, rows)


def answers(folder: Path, ops: Behind, seed: int) -> list[list[tuple[Any, ...]]]:
    """Of a dozen requests that come in two crowds and end at different times."""
    engine = build_engine(folder, ops)
    forward = engine.forward
    memory: dict[int, torch.Tensor] = {}

    def run(ops: Any, batch: DeviceBatch, cache: Any) -> torch.Tensor:
        """Logits where the next step will have its own, as those of a graph."""
        found = forward(ops, batch, cache)[: batch.rows]
        return memory.setdefault(len(found), torch.empty_like(found)).copy_(found)

    engine.forward = run
    source, found = random.Random(seed), dict[int, list[tuple[Any, ...]]]()
    for _ in range(2):
        for way in WAYS:
            params = SamplingParams(max_tokens=source.randint(1, 12), seed=source.randrange(99), **way)
            found[engine.add(source.choices(range(3, 60), k=source.randint(1, 9)), params, (2, 5, 7)).id] = []
        while not engine.is_idle:
            for event in engine.step():
                found[event.request_id].append((event.drawn.token, event.drawn.logprob, event.finish))
    return list(found.values())


@pytest.mark.parametrize(("seed", "candidates"), [(1, drawing.CANDIDATES), (2, 2)])
def test_answers_are_those_of_one_step_after_the_other(
    seed: int, candidates: int, toy_folder: ToyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two candidates many rows are looked at twice, and the step behind them is taken back."""
    monkeypatch.setattr(drawing, "CANDIDATES", candidates)
    folder, _ = toy_folder("interleaved-qk-norm")
    ahead, plain = Behind("cpu", CpuOps().packer, "f32"), Behind("cpu", CpuOps().packer, "f32")
    plain.runs_ahead = False
    found = answers(folder, ahead, seed)
    assert found == answers(folder, plain, seed)
    assert ahead.behind > 5
    assert plain.behind == 0


def test_draws_know_their_tokens_before_they_are_told_and_say_when_those_were_wrong() -> None:
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0))
    rows = [RowSampling(temperature=0.0), RowSampling(seed=1), RowSampling(seed=2, top_k=9), RowSampling(seed=3)]
    draws = Draws(logits, rows)
    assert draws.tokens_R.tolist() == [drawn.token for drawn in draws.result()]
    assert draws.is_final
    flat = torch.zeros(1, 5000)
    row = [RowSampling(seed=5, top_p=0.99)]
    expected = sample(flat, row)[0].token
    draws = Draws(flat, row, keeps_logits=True)
    flat.fill_(float("nan"))  # the next step's
    assert draws.result()[0].token == expected
    assert not draws.is_final


class Copying:
    """An event behind a copy that ends only when it is waited for."""

    def __init__(self, words: torch.Tensor) -> None:
        self.words = words
        self.under_way: torch.Tensor | None = None

    def record(self) -> None:
        self.under_way = self.words.clone()

    def synchronize(self) -> None:
        assert self.under_way is None or torch.equal(self.words, self.under_way), "written to while it was being sent"
        self.under_way = None


def test_a_slot_is_not_written_to_before_what_it_held_has_left() -> None:
    slot = Slot(2, [32], torch.device("cpu"))
    slot._sent = Copying(slot._host_words)
    for token in (5, 6, 7):
        pages = Pages(slots_T=np.arange(2), blocks_SB=np.ones((2, 3), np.int32), bases_S=np.zeros(2, np.int32))
        placed = slot.place(
            Batch(
                tokens_T=np.full(2, token, np.int32),
                positions_T=np.arange(2, dtype=np.int32),
                starts_S=np.arange(3, dtype=np.int32),
                rows_R=np.arange(2, dtype=np.int32),
                global_pages=pages,
                local_pages=None,
            )
        )
        assert placed.tokens_T.tolist() == [token, token]
        assert slot._sent.under_way is not None
