"""The numbers an engine works within."""

from __future__ import annotations

from dataclasses import dataclass

JUDGING_BYTES = 64 * 2**20
LEAST_JUDGING = 16


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

    @property
    def judging_rows(self) -> int:
        """Most rows of a step that judge prompts: their logits take JUDGING_BYTES at most."""
        return max(LEAST_JUDGING, min(self.step_tokens, JUDGING_BYTES // (4 * self.vocabulary)))
