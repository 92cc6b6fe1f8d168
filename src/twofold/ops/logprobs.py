"""Log-probabilities, and how far two distributions over the same tokens are apart."""

from __future__ import annotations

import numpy as np

from twofold.ops.packed import Floats


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis; sums in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    result: Floats = shifted - np.log(sums).astype(np.float32)
    return result


def divergence(p: Floats, q: Floats) -> Floats:
    """KL(p || q) of rows of log-probabilities, in nats; sums in float64."""
    result: Floats = (np.exp(p) * (p - q)).sum(axis=-1, dtype=np.float64).astype(np.float32)
    return result
