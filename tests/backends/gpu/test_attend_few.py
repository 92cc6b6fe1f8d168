"""Attention of single rows: against the reference, and bits that depend on nothing but the row."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.backends.gpu.attention import SMALL_CASES, AttentionOps, tensor
from twofold.backends.gpu.cache import COUNTERS, GpuCache
from twofold.backends.gpu.kernels.attend_few import CONFIGS, Config, attend_rows, choose
from twofold.ops.attention_cases import AttentionCase, attend
from twofold.ops.cases import SOFTMAX, error
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Batch, CacheShape, KvDtype, Pages

SHORT = Config(unit=8, splits=4, block=16, warps=4, stages=3)
"""Parts so short that rows of a few positions have several."""


def ops_with(config: Config | None, kv_dtype: KvDtype = "bf16") -> AttentionOps:
    def launch(q_THK: Tensor, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None) -> Tensor:
        longest = int(np.diff(batch.starts_S).max())
        return attend_rows(
            q_THK, cache, tensor(batch.positions_T), tensor(batch.starts_S), tensor(pages.blocks_SB),
            tensor(pages.bases_S), chunk, longest, config,
        )  # fmt: skip

    return AttentionOps(launch, kv_dtype)


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
@pytest.mark.parametrize("case", SMALL_CASES, ids=str)
def test_rows_agree_with_the_reference(case: AttentionCase, kv_dtype: KvDtype) -> None:
    expected = attend(case, ReferenceOps(kv_dtype), max(case.lengths))
    ops = ops_with(SHORT, kv_dtype)
    found = error((attend(case, ops, max(case.lengths)),), (expected,))
    assert found <= SOFTMAX.relative, f"{found}; {SOFTMAX.reason}"
    assert not ops.caches[0].counters.any(), "the next launch would never be merged"


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
def test_a_row_has_the_same_bits_in_any_batch(kv_dtype: KvDtype) -> None:
    case, step = SMALL_CASES[2], 1 if kv_dtype == "bf16" else 5
    whole = attend(case, ops_with(SHORT, kv_dtype), max(case.lengths))
    assert np.array_equal(attend(case, ops_with(SHORT, kv_dtype), step), whole)


def test_a_row_has_the_same_bits_however_many_programs_share_it() -> None:
    case = SMALL_CASES[3]
    whole = attend(case, ops_with(SHORT), 22)
    alone = Config(unit=8, splits=4, block=16, warps=4, stages=3, programs=1)
    assert np.array_equal(attend(case, ops_with(alone), 22), whole)


def test_a_batch_with_more_rows_than_counters_is_attended_to() -> None:
    case = SMALL_CASES[2]
    ops = ops_with(SHORT)
    expected = attend(case, ops, 22)
    original = ops.launch

    def launch(q_THK: Tensor, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None) -> Tensor:
        fewer = GpuCache(*cache.arrays, torch.zeros(3, dtype=torch.int32))
        return original(q_THK, fewer, batch, pages, chunk)

    ops.launch = launch
    assert np.array_equal(attend(case, ops, 22), expected)
    assert COUNTERS > 3


def test_rows_of_longer_sequences_are_left_alone() -> None:
    case = SMALL_CASES[2]
    ops = ops_with(SHORT)
    whole = attend(case, ops, 22)

    def launch(q_THK: Tensor, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None) -> Tensor:
        o_TD = torch.full((len(q_THK), q_THK[0].numel()), -5.0)
        found = attend_rows(
            q_THK, cache, tensor(batch.positions_T), tensor(batch.starts_S), tensor(pages.blocks_SB),
            tensor(pages.bases_S), chunk, 3, SHORT, o_TD,
        )  # fmt: skip
        assert found is o_TD
        return o_TD

    ops.launch = launch
    some = attend(case, ops, 22)
    assert (some[:19] == -5).all()
    assert np.array_equal(some[19:], whole[19:])


def test_no_row_gives_no_row() -> None:
    ops = ops_with(None)
    case = SMALL_CASES[1]
    ops.new_cache(CacheShape(kv_heads=2, head_size=16, chunks=(None,)), (1, 1), case.block_size)
    none = torch.empty(0, dtype=torch.int32)
    empty = attend_rows(
        torch.empty(0, 4, 16), ops.caches[0], none, none, torch.empty(0, 1, dtype=torch.int32), none, 0, 1
    )
    assert empty.shape == (0, 64)


def test_every_kind_of_cache_has_a_configuration() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        assert choose(dtype).block <= choose(dtype).unit
    assert all(config.unit % config.block == 0 for config in CONFIGS), "a part would end within a tile"
