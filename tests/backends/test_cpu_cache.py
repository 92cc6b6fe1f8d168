"""The cache of the native backend: what lies where, and what its kernels refuse."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from twofold.backends.cpu.cache import HUGE_PAGE
from twofold.backends.cpu.ops import CpuOps, load_native
from twofold.ops.types import CacheShape, KvDtype

SHAPE = CacheShape(kv_heads=3, head_size=20, chunks=(None, 64, None, 64, 64))


@pytest.mark.parametrize("blocks", [(5, 7), (5, 0), (0, 7), (400, 300)])
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
def test_layers_share_no_memory_and_have_the_blocks_of_their_kind(kv_dtype: KvDtype, blocks: tuple[int, int]) -> None:
    layers = CpuOps(kv_dtype=kv_dtype).new_cache(SHAPE, blocks, 24)
    assert [len(layer.arrays[0]) for layer in layers] == [blocks[chunk is not None] for chunk in SHAPE.chunks]
    arrays = [array for layer in layers for array in layer.arrays]
    assert not any(array.any() for array in arrays)
    assert not any(np.shares_memory(one, other) for one, other in combinations(arrays, 2))
    assert all(array.strides[0] % 64 == 0 for array in arrays if array.size), "rows of cache lines"


def test_a_large_cache_lies_on_pages_of_its_own() -> None:
    layers = CpuOps().new_cache(SHAPE, (1000, 1000), 32)
    keys = layers[0].arrays[0]
    assert keys.strides[0] * len(keys) > HUGE_PAGE
    assert keys.ctypes.data % 4096 == 0


def test_what_one_layer_keeps_of_a_block_comes_back_alone() -> None:
    ops = CpuOps(kv_dtype="int8")
    layers = ops.new_cache(SHAPE, (4, 4), 16)
    size = ops.block_bytes(layers[:1])
    content = np.random.default_rng(1).bytes(size)
    ops.write_block(layers[2:3], 1, content)
    for number, layer in enumerate(layers):
        for block in range(4):
            expected = content if (number, block) == (2, 1) else bytes(size)
            assert ops.read_block([layer], block) == expected, f"layer {number}, block {block}"


def arrays(**others: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"keys": np.zeros((4, 2, 2, 256), np.int8), "values": np.zeros((4, 2, 2, 256), np.int8)}
    scales = np.zeros((4, 2, 2, 64), np.float32)  # as far apart as the items
    made |= {"key_scales": scales[..., :16], "value_scales": scales[..., :16]}
    return {**made, **others}


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"values": np.zeros((8, 2, 2, 256), np.int8)[::2]}, "values must have contiguous blocks, as far apart"),
        ({"keys": np.zeros((4, 2, 4, 256), np.int8)[:, :, ::2]}, "keys must have contiguous blocks"),
        ({"values": np.zeros((4, 2, 1, 256), np.int8)}, "values has shape"),
        ({"values": np.zeros((4, 2, 2, 256), np.float32)}, "the same dtype"),
        ({}, "key_scales must have contiguous blocks"),
    ],
)
def test_arrays_that_kernels_would_read_beyond_are_refused(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_native().Cache(**arrays(**others), block_size=32, head_size=16)
