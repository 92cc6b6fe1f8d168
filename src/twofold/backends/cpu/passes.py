"""Passes over a vocabulary on native kernels; see ops.sampling.Passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twofold.ops.sampling import STRETCH, Doubles, Floats, Indices, least_temperature

if TYPE_CHECKING:
    from twofold.backends.cpu import _native


class NativePasses:
    """Fills the same memory again and again: drawing takes one row at a time."""

    def __init__(self, native: _native.Native) -> None:
        self._native = native
        self._make_room(0)

    def _make_room(self, count: int) -> None:
        self._weights_V = np.empty(count, np.float32)
        self._sums_S = np.empty(-(-count // STRETCH), np.float64)
        self._indices_V = np.empty(count, np.int64)

    def weigh(self, logits_V: Floats, largest: float, temperature: float) -> tuple[Floats, Doubles]:
        """See Passes."""
        if len(self._weights_V) != len(logits_V):
            self._make_room(len(logits_V))
        scale = float(least_temperature(temperature))
        self._native.weigh(np.ascontiguousarray(logits_V), largest, scale, self._weights_V, self._sums_S)
        return self._weights_V, self._sums_S

    def reach(self, values_V: Floats, floor: float) -> Indices:
        """See Passes."""
        if len(self._indices_V) != len(values_V):
            self._make_room(len(values_V))
        found = self._native.reach(np.ascontiguousarray(values_V), floor, self._indices_V)
        return self._indices_V[:found].copy()
