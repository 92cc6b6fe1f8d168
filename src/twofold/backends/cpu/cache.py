"""Keys and values of one layer: memory of NumPy, and the view of it that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twofold.ops.packed import AnyArray, padded
from twofold.ops.types import KvDtype

if TYPE_CHECKING:
    from twofold.backends.cpu import _native

PANEL_SLOTS = 16
KV_ITEMS: dict[KvDtype, type] = {"f32": np.float32, "bf16": np.uint16, "int8": np.int8}


@dataclass(frozen=True, eq=False)
class CpuCache:
    """arrays: keys, values and their scales (int8 only), each [blocks, heads, panels, ...], see native/kv.h."""

    native: _native.Cache
    arrays: tuple[AnyArray, ...]


def new_layer(module: Any, kv_dtype: KvDtype, dims: tuple[int, int, int, int]) -> CpuCache:
    """A zeroed cache; dims: blocks, heads, slots of a block, size of a head. Panels have 16 slots."""
    blocks, heads, block_size, head_size = dims
    shape = (blocks, heads, padded(block_size, PANEL_SLOTS) // PANEL_SLOTS)
    panel_items = padded(head_size, PANEL_SLOTS) * PANEL_SLOTS
    items: list[AnyArray] = [np.zeros((*shape, panel_items), KV_ITEMS[kv_dtype]) for _ in range(2)]
    scales: list[AnyArray] = [
        np.zeros((*shape, PANEL_SLOTS if kv_dtype == "int8" else 0), np.float32) for _ in range(2)
    ]
    return CpuCache(module.Cache(*items, *scales, block_size, head_size), (*items, *scales))
