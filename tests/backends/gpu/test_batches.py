"""Batches on a device: what kernels are compiled for does not change from step to step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.gpu import batches
from twofold.backends.gpu.graphs import Slots
from twofold.ops.steps import width_of
from twofold.ops.types import Batch, Pages


def batch(rows: int, columns: int) -> Batch:
    """A decoding batch of so many rows, its block tables so wide."""
    pages = Pages(
        slots_T=np.arange(rows, dtype=np.int64) + 40,
        blocks_SB=np.arange(rows * columns, dtype=np.int32).reshape(rows, columns),
        bases_S=np.arange(rows, dtype=np.int32),
    )
    return Batch(
        tokens_T=np.arange(rows, dtype=np.int32) + 7,
        positions_T=np.arange(rows, dtype=np.int32) + 20,
        starts_S=np.arange(rows + 1, dtype=np.int32),
        rows_R=np.arange(rows, dtype=np.int32),
        global_pages=pages,
        local_pages=pages,
    )


def arrays_in(uploaded: Batch) -> list[torch.Tensor]:
    """All arrays of a batch."""
    kinds = [uploaded.global_pages, uploaded.local_pages]
    pages = [array for kind in kinds if kind for array in (kind.slots_T, kind.blocks_SB, kind.bases_S)]
    return [uploaded.tokens_T, uploaded.positions_T, uploaded.starts_S, uploaded.rows_R, *pages]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (7, 33)])
def test_every_array_lies_at_a_multiple_of_sixteen_bytes_and_is_whole(rows: int, columns: int) -> None:
    given = batch(rows, columns)
    uploaded = batches.upload(given, torch.device("cpu"))
    arrays = arrays_in(uploaded)
    first = arrays[4].data_ptr()
    assert [(array.data_ptr() - first) % 16 for array in arrays] == [0] * len(arrays)
    assert uploaded.tokens_T.tolist() == given.tokens_T.tolist()
    assert uploaded.starts_S.tolist() == given.starts_S.tolist()
    assert uploaded.global_pages.slots_T.tolist() == given.global_pages.slots_T.tolist()
    assert uploaded.global_pages.blocks_SB[:, :columns].tolist() == given.global_pages.blocks_SB.tolist()
    assert uploaded.global_pages.bases_S.tolist() == given.global_pages.bases_S.tolist()


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 100])
def test_block_tables_are_as_wide_as_powers_of_two(columns: int) -> None:
    uploaded = batches.upload(batch(2, columns), torch.device("cpu"))
    assert uploaded.global_pages.blocks_SB.shape == (2, width_of(columns))


@pytest.mark.parametrize("rows", [3, 4])
def test_rows_beyond_the_last_are_not_written_whoever_was_there_before(rows: int) -> None:
    slots = Slots(torch.device("cpu"))
    slots.place(batch(4, 20))
    given = batch(rows, 2)
    placed = slots.place(given)
    assert placed.host is given
    assert placed.rows == rows
    for pages, own in zip(placed.kinds, given.kinds, strict=True):
        assert pages.slots_T.tolist() == [*own.slots_T.tolist(), -1][:4]
        assert pages.bases_S.tolist() == [*own.bases_S.tolist(), 0][:4]
        assert pages.blocks_SB[:rows, :2].tolist() == own.blocks_SB.tolist()
        assert not pages.blocks_SB[:, 2:].any()
        assert not pages.blocks_SB[rows:].any()
    assert placed.tokens_T.tolist() == [7, 8, 9, 10][:rows] + [0] * (4 - rows)
    assert placed.positions_T.tolist() == [20, 21, 22, 23][:rows] + [0] * (4 - rows)
    assert placed.starts_S.tolist() == [0, 1, 2, 3, 4]
    assert placed.sequence_T.tolist() == placed.rows_R.tolist() == [0, 1, 2, 3]
    assert slots.place(batch(4, 31)).tokens_T.data_ptr() == placed.tokens_T.data_ptr()
    assert slots.place(batch(4, 33)).tokens_T.data_ptr() != placed.tokens_T.data_ptr()
