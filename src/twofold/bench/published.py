"""Nominal sizes: parameters times bits, as model cards and other engines count, without scales of ours.

What we hold differs a little: router and norms in float32, a scale per output row, padding (ops.cost counts those).
"""

from __future__ import annotations

from collections.abc import Mapping

from twofold.ops.cost import Footprint

INT4_BITS = 4.125
"""Four bits and a 16-bit scale per group of 128."""
READ_BITS = (16.0, 8.5, 8.0, 4.5)
"""bf16, Q8_0, plain eight bits, Q4_K and its like."""


def published_sizes(counted: Footprint, vision_parameters: int) -> Mapping[str, float]:
    """Bytes of a checkpoint in the formats that are published, by what they are called."""
    text = counted.total_parameters
    experts = counted.parameters.get("expert", 0)
    rest = text - experts + vision_parameters
    found = {"bf16": 2.0 * (text + vision_parameters)}
    if vision_parameters:
        found["bf16 without images"] = 2.0 * text
    if experts:
        found["experts FP8, rest bf16"] = experts + 2.0 * rest
        found["experts int4, rest bf16"] = nominal(experts, INT4_BITS) + 2.0 * rest
    found["text at 8 bits"] = nominal(text, 8.0)
    found["text at 4.5 bits"] = nominal(text, 4.5)
    return found


def nominal_reads(counted: Footprint) -> Mapping[float, float]:
    """Bytes of weights that one token reads, by bits per weight."""
    return {bits: nominal(counted.read_parameters_per_token, bits) for bits in READ_BITS}


def nominal(parameters: float, bits: float) -> float:
    """Bytes of so many parameters."""
    return parameters * bits / 8.0
