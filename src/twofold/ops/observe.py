"""Ops that watch what a network does while another backend does the work."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.ops.interface import Ops
from twofold.ops.types import Array, Weight

KEPT_CALLS = 64
"""Calls of `route` whose experts are kept before they are counted: counting each took 5 us, keeping it takes 0.2."""


class ExpertLoad:
    """Counts how many tokens each expert gets; everything else goes straight to `ops`.

    The last layer's get only those whose logits are wanted.
    """

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._layers: dict[int, LayerLoad] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ops, name)
        if callable(value):  # found at once from now on: a detour per op adds up over a step
            setattr(self, name, value)
        return value

    def route(self, x_TD: Array, router_ED: Weight, active: int) -> tuple[Array, Array]:
        """Route, and count. A layer is known by its router, so a step that failed half-way shifts nothing."""
        experts_TA, gates_TA = self._ops.route(x_TD, router_ED, active)
        self.count(router_ED, experts_TA)
        return experts_TA, gates_TA

    def count(self, router_ED: Weight, experts_TA: Array) -> None:
        """Count what this router chose, also where the step was not run through these ops (backends.cpu.replay)."""
        layer = self._layers.get(id(router_ED))
        if layer is None:
            layer = self._layers[id(router_ED)] = LayerLoad(router_ED.shape[0])
        layer.kept.append(experts_TA)
        if len(layer.kept) >= KEPT_CALLS:
            with self._lock:
                layer.fold()

    @property
    def watched(self) -> Ops:
        """The ops that do the work."""
        return self._ops

    def counted(self) -> list[npt.NDArray[np.int64]]:
        """Tokens per expert (int64 [E]) of each layer with experts that has run, in the order they first ran.

        Safe to call beside the network's thread.
        """
        with self._lock:
            return [layer.total() for layer in tuple(self._layers.values())]


class LayerLoad:
    """Tokens per expert of one layer: counted ones, and ids still to be counted."""

    def __init__(self, experts: int) -> None:
        self.count_E = np.zeros(experts, np.int64)
        self.kept: list[Array] = []

    def fold(self) -> None:
        """Count what was kept."""
        self.count_E = self.total()
        self.kept = []

    def total(self) -> npt.NDArray[np.int64]:
        """All of them, int64 [E]."""
        ids = [np.asarray(experts_TA).ravel() for experts_TA in tuple(self.kept)]
        new_E = np.bincount(np.concatenate(ids), minlength=len(self.count_E)) if ids else 0
        total_E: npt.NDArray[np.int64] = self.count_E + new_E
        return total_E


class Residuals:
    """Keeps a copy of the residual stream after every half layer; everything else goes straight to `ops`.

    The stream begins with what `embed` gives and goes on with every sum whose first term it is, and with the rows the
    last layer takes of it.
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

    def take(self, x_TD: Array, rows_R: Array) -> Array:
        """Take rows; of the stream they are the stream from now on."""
        x_RD = self._ops.take(x_TD, rows_R)
        if x_TD is self._stream:
            self._stream = x_RD
        return x_RD

    def take_all(self) -> list[npt.NDArray[np.float32]]:
        """The copies since the last call, float32 [T, D] each; of the last layer [R, D]."""
        copies, self._copies = self._copies, []
        return copies
