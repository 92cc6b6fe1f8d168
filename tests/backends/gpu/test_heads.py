"""From the joint projection to queries and a filled cache, op by op against the reference."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from tests.backends.gpu.attention import tensor
from twofold.backends.gpu.cache import new_layer
from twofold.backends.gpu.kernels.heads import prepare
from twofold.ops.cases import FUSED, SQUARES, error, generator, normal
from twofold.ops.reference import ReferenceOps, kept
from twofold.ops.types import KvDtype, Rope, Temperature

CPU = torch.device("cpu")
BLOCK_SIZE = 4
SLOTS_T = np.array([5, 0, 11, 7, 6], np.int64)
POSITIONS_T = np.array([9000, 0, 3, 131071, 17], np.int32)
SHAPES = [(4, 2, 16), (1, 1, 4), (5, 1, 128), (6, 3, 20), (40, 8, 12)]


def cached(items: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """What a cache holds of the tokens, float32 [T, G, K]."""
    blocks, offsets = SLOTS_T // BLOCK_SIZE, SLOTS_T % BLOCK_SIZE
    found = items.float().numpy()[blocks, :, offsets]
    return found * scales.numpy()[blocks, :, offsets, None] if scales.numel() else found


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
def test_heads_are_rotated_normed_and_kept(heads: int, kv_heads: int, size: int, kv_dtype: KvDtype) -> None:
    rope = Rope(head_size=size, theta=5e5, interleaved=size != 20)
    reference = ReferenceOps()
    qkv_TN = normal(generator(heads, size), 5, (heads + 2 * kv_heads) * size)
    cosine_TK2, sine_TK2 = reference.angles(POSITIONS_T, rope)
    for epsilon in (None, 1e-5):
        cache = new_layer(kv_dtype, (3, kv_heads, BLOCK_SIZE, size), CPU)
        found = prepare(
            tensor(qkv_TN), heads, kv_heads, size, tensor(SLOTS_T), cache, tensor(cosine_TK2), tensor(sine_TK2),
            rope.interleaved, epsilon,
        )  # fmt: skip
        q, k, v = reference.split_heads(qkv_TN, heads, kv_heads)
        q, k = (reference.rotate(x, (cosine_TK2, sine_TK2), rope) for x in (q, k))
        if epsilon is not None:
            q, k = (reference.unit_norm(x, epsilon) for x in (q, k))
        assert error((found.numpy(),), (q,)) <= (FUSED if epsilon is None else SQUARES).relative
        assert np.array_equal(cached(cache.values, cache.value_scales), kept(v, kv_dtype))
        # a key that differs in its last bit may round to the neighbour, which is 1/127 or 1/128 away
        nearly = {"f32": SQUARES.relative, "bf16": 1 / 128, "int8": 1 / 127}[kv_dtype]
        assert error((cached(cache.keys, cache.key_scales),), (kept(k, kv_dtype),)) <= nearly


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_have_a_temperature_and_keys_none(dtype: torch.dtype) -> None:
    heads, kv_heads, size = 4, 2, 16
    qkv = tensor(normal(generator(3), 5, (heads + 2 * kv_heads) * size + 8)).to(dtype)[:, :-8]
    q, k, v = ReferenceOps().split_heads(qkv.float().numpy(), heads, kv_heads)
    factors = ReferenceOps().temperature(
        np.ones((5, 1, 1), np.float32), POSITIONS_T, Temperature(floor=8192, scale=0.1)
    )
    cache = new_layer("f32", (3, kv_heads, BLOCK_SIZE, size), CPU)
    found = prepare(qkv, heads, kv_heads, size, tensor(SLOTS_T), cache, factors_T=tensor(factors.reshape(-1)))
    assert np.array_equal(found.numpy(), q * factors)
    less = prepare(
        qkv, heads, kv_heads, size, tensor(SLOTS_T), cache, factors_T=tensor(factors.reshape(-1)), dtype=torch.bfloat16
    )
    assert torch.equal(less, found.bfloat16())
    assert np.array_equal(cached(cache.keys, cache.key_scales), k)
    assert np.array_equal(cached(cache.values, cache.value_scales), v)


@pytest.mark.parametrize("kv_dtype", get_args(KvDtype))
def test_a_row_without_a_slot_leaves_the_cache_alone(kv_dtype: KvDtype) -> None:
    cache = new_layer(kv_dtype, (3, 2, BLOCK_SIZE, 16), CPU)
    qkv_TN = tensor(normal(generator(4), 3, 8 * 16))
    prepare(qkv_TN, 4, 2, 16, tensor(np.array([-1, 6, -1], np.int64)), cache)
    written = cache.keys.float().abs().sum(dim=(1, 3)).flatten().nonzero().flatten().tolist()
    assert written == [6]
    assert not cache.values[2].any()


def test_a_nan_is_not_lost_in_an_int8_cache() -> None:
    cache = new_layer("int8", (1, 1, BLOCK_SIZE, 16), CPU)
    qkv_TN = tensor(normal(generator(5), 1, 3 * 16))
    qkv_TN[0, 20] = torch.nan
    prepare(qkv_TN, 1, 1, 16, torch.zeros(1, dtype=torch.int64), cache)
    assert cache.key_scales[0, 0, 0].isnan()
    assert not cache.value_scales.isnan().any()


def test_no_token_gives_no_query() -> None:
    cache = new_layer("f32", (1, 1, BLOCK_SIZE, 16), CPU)
    assert prepare(torch.empty(0, 48), 1, 1, 16, torch.empty(0, dtype=torch.int64), cache).shape == (0, 1, 16)
