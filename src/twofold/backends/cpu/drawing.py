"""Drawing tokens on native kernels, all rows in one call; ops.sampling defines the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twofold.backends.cpu.passes import NativePasses
from twofold.ops import sampling
from twofold.ops.sampling import Floats
from twofold.ops.types import Drawn, RowSampling
from twofold.ops.uniforms import uniform

if TYPE_CHECKING:
    from twofold.backends.cpu import _native


MEMBERS = 5
"""Of native/kernels.h, Drawing."""


class Sampler:
    """Draws by the kernels of one instruction set."""

    def __init__(self, native: _native.Native) -> None:
        self._native = native
        self._passes = NativePasses(native)

    def sample(self, logits_RV: Floats, rows: Sequence[RowSampling]) -> list[Drawn]:
        """One token per row; see ops.sampling.draw for what it raises."""
        alone = [place for place, row in enumerate(rows) if row.token is not None or sampling.is_adjusted(row)]
        if not alone:
            return self.draw(logits_RV, logits_RV, rows)
        found = {place: self.sample_row(logits_RV[place], rows[place]) for place in alone}
        others = [place for place in range(len(rows)) if place not in found]
        logits_OV = logits_RV[others]
        found |= zip(others, self.draw(logits_OV, logits_OV, [rows[place] for place in others]), strict=True)
        return [found[place] for place in range(len(rows))]

    def sample_row(self, logits_V: Floats, row: RowSampling) -> Drawn:
        """The token of a row that is not drawn from its logits as they are."""
        if row.token is not None:
            return sampling.draw(logits_V, row, self._passes)
        return self.draw(sampling.adjust(logits_V, row)[None], logits_V[None], [row])[0]

    def draw(self, adjusted_RV: Floats, logits_RV: Floats, rows: Sequence[RowSampling]) -> list[Drawn]:
        """One token per row; logits_RV are those before all adjustments."""
        drawings_RM = np.array([members_of(row) for row in rows], np.float64).reshape(len(rows), MEMBERS)
        tokens_R, best_R = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
        self._native.draw(adjusted_RV, drawings_RM, tokens_R, best_R)
        results = []
        for place, (row, token, best) in enumerate(zip(rows, tokens_R.tolist(), best_R.tolist(), strict=True)):
            sampling.check_drawable(best, float(logits_RV[place].max()) if best == -math.inf else best)
            if row.logprobs < 0:
                results.append(Drawn(token=token))
            else:
                results.append(sampling.tell(logits_RV[place], token, row.logprobs, self._passes))
        return results


def members_of(row: RowSampling) -> tuple[float, ...]:
    """A row as the kernel wants it."""
    number = uniform(row.seed, row.step) if row.temperature else 0.0
    return row.temperature, row.top_k, row.top_p, row.min_p, number
