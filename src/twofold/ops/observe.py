"""Ops that watch what a network does while another backend does the work."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.ops.interface import Ops
from twofold.ops.types import Array, Weight


class ExpertLoad:
    """Counts how many tokens each expert gets; everything else goes straight to `ops`.

    counts: for each MoE layer, in the order the network runs them, tokens per expert (int64 [E]).
    """

    def __init__(self, ops: Ops, moe_layers: int) -> None:
        self._ops = ops
        self._calls = 0
        self.counts: list[npt.NDArray[np.int64] | None] = [None] * moe_layers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def route(self, x_TD: Array, router_ED: Weight, active: int) -> tuple[Array, Array]:
        """Route, and count."""
        experts_TA, gates_TA = self._ops.route(x_TD, router_ED, active)
        layer = self._calls % len(self.counts)
        self._calls += 1
        count_E = np.bincount(np.asarray(experts_TA).ravel(), minlength=router_ED.shape[0])
        before = self.counts[layer]
        self.counts[layer] = count_E if before is None else before + count_E
        return experts_TA, gates_TA
