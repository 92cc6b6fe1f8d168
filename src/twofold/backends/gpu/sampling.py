"""Drawing tokens from logits on a device; ops.sampling defines the results."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from twofold.ops import sampling
from twofold.ops.types import Drawn, RowSampling


def sample(logits_RV: Tensor, rows: Sequence[RowSampling]) -> list[Drawn]:
    """One token per row, drawn on the host."""
    return sampling.sample(logits_RV.float().cpu().numpy(), rows)
