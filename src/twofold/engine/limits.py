"""The numbers an engine works within."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """context: longest sequence; step_tokens: most tokens in one step; max_sequences: most at once; vocabulary: ids."""

    context: int
    step_tokens: int
    max_sequences: int
    vocabulary: int
