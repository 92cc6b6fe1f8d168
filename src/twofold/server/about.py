"""What a served model is, for clients that ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """family: of its architecture (llama, llama4 ...). format: of its files (safetensors, gguf, twofold).

    dtype: how its weights are kept. parameters: how many it has. size_bytes: of its weights in memory. layers, hidden,
    vocabulary and trained_context (tokens) are the network's own sizes. threads: those that compute.
    """

    family: str
    format: str
    dtype: str
    parameters: int
    size_bytes: int
    layers: int
    hidden: int
    vocabulary: int
    trained_context: int
    threads: int
