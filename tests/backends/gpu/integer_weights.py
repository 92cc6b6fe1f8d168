"""Integer weights and activations for the tests of their kernels, and what ops.reference makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu.codes import Codes, quantize
from twofold.backends.gpu.lazy import Plain
from twofold.backends.gpu.weights import Int8Weight, to_device
from twofold.ops import cases, packed
from twofold.ops.activations import quantize_activations
from twofold.ops.packed import Floats, Format
from twofold.ops.reference import ReferenceOps

INTEGERS: tuple[Format, ...] = ("int4", "int8")
REFERENCE = ReferenceOps()
CPU = torch.device("cpu")


class Given(Plain):
    """Rows whose codes are known."""

    def __init__(self, codes: Codes) -> None:
        super().__init__(torch.zeros(len(codes), 1))
        self._codes = codes


def product(form: Format, tokens: int, *shape: int) -> tuple[Codes, Any, Floats]:
    """Codes of tokens, some of them wide, a weight of `shape` for a device, and its product by the reference."""
    rng = cases.generator(tokens, *shape)
    x_TD = cases.outliers(rng, tokens, shape[-1])
    weight = cases.pack(REFERENCE, form, cases.normal(rng, *shape))
    wanted = REFERENCE.linear(x_TD, weight) if len(shape) == 2 else np.empty(0, np.float32)
    return quantize(torch.from_numpy(x_TD)), to_device(weight, CPU), wanted


def routed(
    form: Format, tokens: int, active: int, *shape: int, experts: list[int] | None = None
) -> tuple[Codes, Any, Tensor, Tensor, Floats]:
    """Codes, a stack, the experts and gates of tokens * active rows, and their products by the reference."""
    rng = cases.generator(tokens, active, *shape)
    x_TD = cases.outliers(rng, tokens, shape[-1])
    weight = cases.pack(REFERENCE, form, cases.normal(rng, *shape))
    chosen = np.array(experts if experts is not None else rng.integers(0, shape[0], tokens * active), np.int32)
    gates = rng.uniform(0.1, 0.9, tokens * active).astype(np.float32)
    wanted = np.empty((tokens * active, shape[1]), np.float32)
    for row, (expert, gate) in enumerate(zip(chosen.tolist(), gates, strict=True)):
        x = quantize_activations(x_TD[row // active : row // active + 1]).scaled(np.array([gate]))
        wanted[row] = REFERENCE.integer_product(x, packed.matrix(weight, expert))[0]  # type: ignore[arg-type]
    codes = quantize(torch.from_numpy(x_TD))
    return codes, to_device(weight, CPU), torch.from_numpy(chosen), torch.from_numpy(gates), wanted


def beyond_32_bits() -> tuple[Codes, Int8Weight]:
    """A token of ones, and a stack of three matrices whose last begins behind 2^31 bytes and has two rows of ones.

    Only the pages of its first sixteen rows are ever touched.
    """
    rows, width = 1 << 17, 8192
    codes, scales = torch.empty(3, rows, width, dtype=torch.int8), torch.empty(3, rows)
    codes[2, :16], scales[2, :16] = 1, 1
    x = Codes(torch.ones(1, 2, width, dtype=torch.int8), torch.ones(1), torch.zeros(1, dtype=torch.int32))
    return x, Int8Weight(codes, scales, (3, 2, width))
