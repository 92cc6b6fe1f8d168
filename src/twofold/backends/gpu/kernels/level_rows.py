"""The products of every multiplier with every level: what four-bit codes are looked up in."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from twofold.ops.levels import LEVELS


@cache
def level_rows(device: torch.device) -> Tensor:
    """m * level for every stored multiplier and every code, int32 [16, 4]: sixteen int8 in a row."""
    stored = np.arange(16)
    products = np.where(stored < 8, stored - 8, stored - 7)[:, None] * LEVELS.astype(np.int64)
    return torch.from_numpy(products.astype(np.int8).view(np.int32)).to(device)
