"""Keys and values: the memory of all layers, and the view of each that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twofold.ops.packed import AnyArray, padded
from twofold.ops.types import KvDtype

if TYPE_CHECKING:
    from twofold.backends.cpu import _native

PANEL_SLOTS = 16
LINE = 64
HUGE_PAGE = 2 * 2**20
Field = tuple[tuple[int, ...], np.dtype[Any]]
KV_ITEMS: dict[KvDtype, type] = {"f32": np.float32, "bf16": np.uint16, "int8": np.int8}


@dataclass(frozen=True, eq=False)
class CpuCache:
    """Of one layer; arrays: keys, values and their scales (int8 only), each [blocks, heads, panels, ...]: kv.h."""

    native: _native.Cache
    arrays: tuple[AnyArray, ...]


def new_layers(module: Any, kv_dtype: KvDtype, count: int, dims: tuple[int, int, int, int]) -> list[CpuCache]:
    """Zeroed caches of `count` layers; dims: blocks, heads, slots of a block, size of a head. Panels have 16 slots.

    What all layers keep of a block lies together. Blocks are used from the first on, so memory is taken as tokens come
    although it comes in huge pages; and these save a tenth of attention's time at depth, where the keys of a layer
    would lie on thousands of small pages, each of which must be found.
    """
    blocks, heads, block_size, head_size = dims
    panels = (heads, padded(block_size, PANEL_SLOTS) // PANEL_SLOTS)
    items: Field = ((*panels, padded(head_size, PANEL_SLOTS) * PANEL_SLOTS), np.dtype(KV_ITEMS[kv_dtype]))
    scales: Field = ((*panels, PANEL_SLOTS if kv_dtype == "int8" else 0), np.dtype(np.float32))
    fields = (items, items, scales, scales)
    sizes = [prod(shape) * dtype.itemsize for shape, dtype in fields]
    layer_bytes = sum(padded(size, LINE) for size in sizes)
    block_bytes = count * layer_bytes + LINE  # powers of two apart, blocks would crowd a few sets of the caches
    memory = zeros(module, blocks * block_bytes).reshape(blocks, block_bytes)

    def layer(begin: int) -> CpuCache:
        arrays: list[AnyArray] = []
        for (shape, dtype), size in zip(fields, sizes, strict=True):
            arrays.append(memory[:, begin : begin + size].view(dtype).reshape(blocks, *shape))
            begin += padded(size, LINE)
        return CpuCache(module.Cache(*arrays, block_size, head_size), tuple(arrays))

    return [layer(index * layer_bytes) for index in range(count)]


def zeros(module: Any, size_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory, on huge pages where the system gives them and there is one to fill."""
    if size_bytes < HUGE_PAGE:
        return np.zeros(size_bytes, np.uint8)
    memory: npt.NDArray[np.uint8] = module.arena(padded(size_bytes, HUGE_PAGE))
    return memory[:size_bytes]
