"""How much each format changes a weight: relative RMS error on Gaussian and on heavy-tailed matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from twofold.ops.packed import Floats, Format, decode, place, size_bytes
from twofold.ops.types import Role
from twofold.quant.schemes import scheme

ROWS, COLUMNS = 256, 4096
DEGREES = 5
"""Of freedom of Student's t: tails about as heavy as those of trained weights."""
GGUF_FORMS = {"w4a8": GGMLQuantizationType.Q4_0, "w8a8": GGMLQuantizationType.Q8_0, "bf16": GGMLQuantizationType.BF16}
ROLES: tuple[Role, ...] = ("dense", "head")


def matrices(seed: int = 0) -> dict[str, Floats]:
    """The two matrices, deviation 0.02."""
    random = np.random.default_rng(seed)
    tails = random.standard_t(DEGREES, (ROWS, COLUMNS)) * np.sqrt((DEGREES - 2) / DEGREES)
    normal = random.standard_normal((ROWS, COLUMNS))
    return {"gaussian": (0.02 * normal).astype(np.float32), "student-t(5)": (0.02 * tails).astype(np.float32)}


def relative_rms(exact: Floats, approximate: Floats) -> float:
    """Root of the squared error over the squared weights."""
    return float(np.sqrt(np.square(approximate - exact).sum() / np.square(exact).sum()))


def ours(values: Floats, form: Format) -> Floats:
    """What twofold's native packer makes of a matrix."""
    from twofold.backends.cpu.ops import CpuOps

    packer = CpuOps().packer
    packed = place(form, values.shape, packer.arena(size_bytes(form, values.shape)))
    packer.encode(values, packed, 0)
    return decode(packed)


def theirs(values: Floats, kind: GGMLQuantizationType) -> Floats:
    """What the gguf package makes of a matrix."""
    return quants.dequantize(quants.quantize(values, kind), kind)


def weight_errors(dtype: str) -> list[dict[str, Any]]:
    """Bits and error of every format of a scheme, with llama.cpp's of the same size."""
    kind = GGUF_FORMS[dtype]
    block, size = GGML_QUANT_SIZES[kind]
    found = []
    for name, values in matrices().items():
        rows = [("twofold", role, scheme(dtype)[role]) for role in ROLES]
        for engine, role, form in rows:
            bits = 8 * size_bytes(form, values.shape) / values.size
            found.append(row(name, f"{engine} {form} ({role})", bits, relative_rms(values, ours(values, form))))
        found.append(row(name, f"GGUF {kind.name}", 8 * size / block, relative_rms(values, theirs(values, kind))))
    return found


def row(matrix: str, form: str, bits: float, error: float) -> dict[str, Any]:
    """One line."""
    return {"matrix": matrix, "form": form, "bits": round(bits, 3), "relative_rms": round(error, 5)}
