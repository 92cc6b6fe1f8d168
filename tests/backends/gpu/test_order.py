"""Rows in the order of their experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu.kernels.order import order


@pytest.mark.parametrize(
    ("rows", "experts", "block"),
    [(0, 3, 16), (1, 4, 16), (40, 5, 16), (300, 130, 16), (33, 1, 32), (1100, 16, 128)],
)
def test_every_row_comes_once_in_a_block_of_its_expert(rows: int, experts: int, block: int) -> None:
    chosen = np.random.default_rng(rows).integers(0, experts, rows).astype(np.int32)
    ordered = order(torch.from_numpy(chosen), experts, block)
    seen: list[int] = []
    for place, expert in enumerate(ordered.expert_of_block.tolist()):
        own = [row for row in ordered.rows[place * block : (place + 1) * block].tolist() if row >= 0]
        assert all(chosen[row] == expert for row in own)
        seen += own
    assert seen == np.argsort(chosen, kind="stable").tolist()


def test_experts_without_rows_have_no_block() -> None:
    ordered = order(torch.full((20,), 7, dtype=torch.int32), 16, 16)
    assert ordered.expert_of_block.tolist() == [7, 7] + [-1] * (len(ordered.expert_of_block) - 2)
