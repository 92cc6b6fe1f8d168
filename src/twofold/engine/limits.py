"""The numbers an engine works within."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """context: longest sequence; step_tokens: most tokens in one step; max_sequences: most at once; vocabulary: ids.

    prefix_cache: what was computed for one prompt serves the next one that begins alike. step_s: seconds a step may
    take beside sequences that decode (engine/pace.py), 0 for no limit. checks: engine.invariants after every step.
    """

    context: int
    step_tokens: int
    max_sequences: int
    vocabulary: int
    prefix_cache: bool = False
    step_s: float = 0.0
    checks: bool = False
