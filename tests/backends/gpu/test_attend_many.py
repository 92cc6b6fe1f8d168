"""Attention of many rows of a sequence: against the reference, and bits that do not depend on the cut into steps."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.backends.gpu.attention import SMALL_CASES, AttentionOps, tensor
from twofold.backends.gpu.cache import GpuCache, new_layer
from twofold.backends.gpu.kernels.attend_few import attend_rows
from twofold.backends.gpu.kernels.attend_many import Config, attend_tiles
from twofold.backends.gpu.kernels.heads import prepare
from twofold.ops.attention_cases import ATTENTION_CASES, AttentionCase, attend
from twofold.ops.cases import SOFTMAX, error, generator, normal
from twofold.ops.packed import Floats
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Batch, KvDtype, Pages

SHORT = Config(rows=16, block=16, warps=4, stages=3)
CASES = [*SMALL_CASES, ATTENTION_CASES[4]]


def ops_with(config: Config | None, kv_dtype: KvDtype = "bf16") -> AttentionOps:
    def launch(q_THK: Tensor, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None) -> Tensor:
        longest = int(np.diff(batch.starts_S).max())
        return attend_tiles(
            q_THK, cache, tensor(batch.positions_T), tensor(batch.starts_S), tensor(pages.blocks_SB),
            tensor(pages.bases_S), chunk, longest, 1, config,
        )  # fmt: skip

    return AttentionOps(launch, kv_dtype)


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles_agree_with_the_reference(case: AttentionCase, kv_dtype: KvDtype) -> None:
    expected = attend(case, ReferenceOps(kv_dtype), max(case.lengths))
    config = SHORT if max(case.lengths) < 40 else None
    found = error((attend(case, ops_with(config, kv_dtype), max(case.lengths)),), (expected,))
    assert found <= SOFTMAX.relative, f"{found}; {SOFTMAX.reason}"


@pytest.fixture
def rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter multiplies with BLAS, whose sums depend on a row's place in a tile on some CPUs (Zen 3)."""

    def matmul(a: Floats, b: Floats, dtype: Any = None) -> Floats:
        product: Floats = np.einsum("ij,jk->ik", a, b, dtype=dtype)
        return product

    monkeypatch.setattr(np, "matmul", matmul)


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
def test_a_row_has_the_same_bits_however_tokens_are_cut_into_steps(kv_dtype: KvDtype) -> None:
    for case in SMALL_CASES[2:4]:
        whole = attend(case, ops_with(SHORT, kv_dtype), max(case.lengths))
        assert np.array_equal(attend(case, ops_with(SHORT, kv_dtype), 5), whole)


def test_sequences_with_fewer_rows_are_left_alone() -> None:
    case = SMALL_CASES[2]
    whole = attend(case, ops_with(SHORT), 22)

    def launch(q_THK: Tensor, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None) -> Tensor:
        o_TD = torch.full((len(q_THK), q_THK[0].numel()), -5.0)
        return attend_tiles(
            q_THK, cache, tensor(batch.positions_T), tensor(batch.starts_S), tensor(pages.blocks_SB),
            tensor(pages.bases_S), chunk, 19, 4, SHORT, o_TD,
        )  # fmt: skip

    some = attend(case, AttentionOps(launch, "bf16"), 22)
    assert (some[19:] == -5).all()
    assert np.array_equal(some[:19], whole[:19])


def test_a_cache_of_more_than_2_31_elements_is_read_where_it_should_be() -> None:
    blocks, size = 2**31 // (32 * 128) + 2, 128
    small = new_layer("int8", (2, 1, 32, size), torch.device("cpu"))
    # memory that is never touched costs nothing, so only the last block of this is there
    arrays = [torch.empty(blocks, *array.shape[1:], dtype=array.dtype) for array in small.arrays]
    large = GpuCache(*arrays, small.counters)
    assert large.keys.numel() > 2**31
    rng = generator(31)
    q_THK, qkv_TN = tensor(normal(rng, 5, 1, size)), tensor(normal(rng, 5, 3 * size))
    positions_T, starts_S = torch.arange(5, dtype=torch.int32), torch.tensor([0, 5], dtype=torch.int32)
    bases_S = torch.zeros(1, dtype=torch.int32)
    results = []
    for cache, block in ((small, 1), (large, blocks - 1)):
        prepare(qkv_TN, 1, 1, size, block * 32 + positions_T.long(), cache)
        blocks_SB = torch.tensor([[block]], dtype=torch.int32)
        results.append(attend_tiles(q_THK, cache, positions_T, starts_S, blocks_SB, bases_S, None, 5, 1, SHORT))
        results.append(attend_rows(q_THK, cache, positions_T, starts_S, blocks_SB, bases_S, None, 5))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert torch.allclose(results[0], results[1], atol=1e-5)
