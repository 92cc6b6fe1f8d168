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


class Residuals:
    """Keeps a copy of the residual stream after every half layer; everything else goes straight to `ops`.

    The stream begins with what `embed` gives and goes on with every sum whose first term it is.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._stream: Array = None
        self._copies: list[npt.NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def embed(self, table_VD: Weight, tokens_T: Array) -> Array:
        """Embed: the stream begins."""
        self._stream = self._ops.embed(table_VD, tokens_T)
        return self._stream

    def add(self, x_TD: Array, y_TD: Array) -> Array:
        """Add; a sum with the stream is the stream from now on."""
        total_TD = self._ops.add(x_TD, y_TD)
        if x_TD is self._stream:
            self._stream = total_TD
            self._copies.append(np.array(self._ops.download(total_TD), np.float32))
        return total_TD

    def take_all(self) -> list[npt.NDArray[np.float32]]:
        """The copies since the last call, float32 [T, D] each."""
        copies, self._copies = self._copies, []
        return copies
