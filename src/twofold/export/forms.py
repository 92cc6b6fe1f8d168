"""What weights may be in a graph.

f32 f16 bf16   values, cast to float32 in front of the product
int8           one scale per output row, symmetric
fp8            float8 e4m3, one scale per output row
int4           -8..7, one float32 scale per 32 inputs of an output row
"""

from __future__ import annotations

from typing import Literal, get_args

from twofold.ops.types import Role

Form = Literal["f32", "f16", "bf16", "int4", "int8", "fp8"]
DTYPES: tuple[Form, ...] = get_args(Form)


def forms(dtype: Form) -> dict[Role, Form]:
    """The form of each role. Norms and router stay float32, as in every scheme.

    int4 keeps embedding and head in eight bits and fp8 in bfloat16: their errors go straight into the logits.
    """
    ends: Form = {"int4": "int8", "fp8": "bf16"}.get(dtype, dtype)  # type: ignore[assignment]
    return {
        "norm": "f32", "router": "f32", "embedding": ends, "head": ends,
        "attention": dtype, "dense": dtype, "shared": dtype, "expert": dtype,
    }  # fmt: skip
