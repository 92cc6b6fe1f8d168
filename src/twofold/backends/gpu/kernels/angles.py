"""What a forward pass begins with: cosines and sines of its positions, and the factors of Llama 4's temperature.

One launch each, where torch takes four and seven. tl.cos and tl.sin are the devices' own mathematical functions, not
their fast instructions: they reduce arguments of any size exactly, as a context of ten million positions needs it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature
from twofold.ops.types import Temperature

BLOCK = 128


def angles(positions_T: Tensor, frequencies_K2: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency, each float32 [T, K/2]; the product is taken in float32."""
    tokens, pairs = len(positions_T), len(frequencies_K2)
    cosine_TK2, sine_TK2 = (torch.empty(tokens, pairs, device=positions_T.device) for _ in range(2))
    if tokens:
        launch(
            angles_kernel, (cdiv(tokens * pairs, BLOCK),),
            positions_T, frequencies_K2, cosine_TK2, sine_TK2, tokens, PAIRS=pairs, BLOCK=BLOCK,
            **options(positions_T.device), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return cosine_TK2, sine_TK2


def factors(positions_T: Tensor, setting: Temperature) -> Tensor:
    """What queries at these positions are multiplied by, float32 [T]: see ops.types.Temperature."""
    factors_T = torch.empty(len(positions_T), device=positions_T.device)
    if len(positions_T):
        launch(
            factors_kernel, (cdiv(len(positions_T), BLOCK),),
            positions_T, factors_T, len(positions_T), setting.scale, FLOOR=setting.floor, BLOCK=BLOCK,
            **options(positions_T.device), num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return factors_T


@triton.jit(do_not_specialize=["tokens"])
def angles_kernel(
    positions_T, frequencies_K2, cosines, sines, tokens, PAIRS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """positions_T integers; frequencies_K2, cosines and sines f32. BLOCK angles, whichever tokens they are of."""
    release(EARLY)
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_there = places < tokens * PAIRS
    frequencies = tl.load(frequencies_K2 + places % PAIRS, mask=is_there, other=0.0)
    wait(EARLY)
    angles = tl.load(positions_T + places // PAIRS, mask=is_there, other=0).to(tl.float32) * frequencies
    tl.store(cosines + places, tl.cos(angles), mask=is_there)
    tl.store(sines + places, tl.sin(angles), mask=is_there)


@triton.jit(do_not_specialize=["tokens"])
def factors_kernel(
    positions_T, factors_T, tokens, scale, FLOOR: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """positions_T integers; factors_T f32. One more than the steps is an integer: its logarithm needs no log1p."""
    release(EARLY)
    places_T = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wait(EARLY)
    steps_T = (tl.load(positions_T + places_T, mask=places_T < tokens, other=0) + 1) // FLOOR
    tl.store(factors_T + places_T, 1.0 + scale * tl.log((steps_T + 1).to(tl.float32)), mask=places_T < tokens)


SIGNATURES = {
    "angles": Signature(
        kernel=angles_kernel,
        arguments="positions_T:*i32 frequencies_K2:*fp32 cosines:*fp32 sines:*fp32 tokens:i32",
        constants={"PAIRS": 64, "BLOCK": BLOCK}, fusion=False,
    ),
    "factors": Signature(
        kernel=factors_kernel, arguments="positions_T:*i32 factors_T:*fp32 tokens:i32 scale:fp32",
        constants={"FLOOR": 8192, "BLOCK": BLOCK}, fusion=False,
    ),
}  # fmt: skip
"""What test_compiles watches."""
