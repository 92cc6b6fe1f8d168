"""One weight at a time: from values and calibration inputs to codes, and what there is to report about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from twofold.ops.codes import Codes
from twofold.ops.levels import LEVELS
from twofold.ops.packed import Floats
from twofold.quant.calibrate import Inputs
from twofold.quant.gptq import factorise, round_plainly, round_with_compensation
from twofold.quant.grids import Fp8Grid, Grid, GroupGrid, Int4Grid, Int8Grid, Rows
from twofold.weights.compressed_rows import Fp8Rows

Kind = Literal["f32", "bf16", "int8", "int4", "refined", "fp8", "group4"]
"""What a weight becomes: a packed format, or one of compressed-tensors' that is decoded while loading."""
BITS: dict[Kind, float] = {"f32": 32, "bf16": 16, "int8": 8, "int4": 4.125, "refined": 8.25, "fp8": 8, "group4": 4.125}
GRIDS: dict[Kind, Callable[[Floats, Floats], Grid]] = {
    "int8": Int8Grid,
    "int4": Int4Grid,
    "fp8": Fp8Grid,
    "group4": GroupGrid,
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was done to one matrix.

    relative_error: |W - Q|^2 / |W|^2; output_error: the same of the products with the calibration inputs (None
    without any); tokens: calibration tokens seen, `forced` of them by forced routing; clipped: share of codes at the
    ends of their range; damping: see gptq.factorise.
    """

    name: str
    format: Kind
    bits: float
    method: str
    relative_error: float
    output_error: float | None = None
    tokens: int = 0
    forced: int = 0
    clipped: float = 0.0
    damping: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def quantise(w_ND: Floats, form: Kind, inputs: Inputs | None, name: str) -> tuple[Rows, Record]:
    """Codes of one matrix: by GPTQ where there are inputs, else to the nearest ones with searched scales.

    Raises QuantisationError when the inputs cannot be used.
    """
    if form == "refined":
        return quantise_refined(w_ND, inputs, name)
    assert form in GRIDS, f"{form} holds no codes"
    factor = None if inputs is None else factorise(inputs.h_DD, name)
    importance_D = np.ones(w_ND.shape[1], np.float32) if factor is None else factor.importance_D
    grid = GRIDS[form](w_ND, importance_D)
    if factor is None:
        round_plainly(w_ND, importance_D, grid)
    else:
        round_with_compensation(w_ND, factor, grid)
    codes = grid.codes()
    lost_ND = w_ND - codes.values()
    record = Record(
        name=name,
        format=form,
        bits=BITS[form],
        method="round" if factor is None else "gptq",
        relative_error=share(np.square(lost_ND).sum(dtype=np.float64), np.square(w_ND).sum(dtype=np.float64)),
        output_error=None if inputs is None else share(energy(lost_ND, inputs), energy(w_ND, inputs)),
        tokens=0 if inputs is None else inputs.tokens,
        forced=0 if inputs is None else inputs.forced,
        clipped=clipped_share(codes),
        damping=None if factor is None else factor.damping,
    )
    return codes, record


def quantise_refined(w_ND: Floats, inputs: Inputs | None, name: str) -> tuple[Codes, Record]:
    """Four bits as everywhere, then four more of what is lost, by the same method."""
    coarse, record = quantise(w_ND, "int4", inputs, name)
    assert isinstance(coarse, Codes)
    lost_ND = w_ND - coarse.values()
    residual, _ = quantise(lost_ND, "int4", inputs, name)
    assert isinstance(residual, Codes)
    left_ND = lost_ND - residual.values()
    codes = Codes(coarse.q_ND, coarse.m_NG, coarse.s_N, residual)
    found = record.as_dict() | {
        "format": "refined",
        "bits": BITS["refined"],
        "relative_error": share(np.square(left_ND).sum(dtype=np.float64), np.square(w_ND).sum(dtype=np.float64)),
        "output_error": None if inputs is None else share(energy(left_ND, inputs), energy(w_ND, inputs)),
    }
    return codes, Record(**found)


def energy(w_ND: Floats, inputs: Inputs) -> float:
    """Mean square of the products of w with the inputs, summed over rows: trace(w H w^T)."""
    return float(np.einsum("nd,nd->", w_ND @ inputs.h_DD.astype(np.float32), w_ND, dtype=np.float64))


def share(part: Any, whole: Any) -> float:
    """part / whole, 0 for a weight of zeros."""
    return float(part) / float(whole) if whole else 0.0


def clipped_share(codes: Rows) -> float:
    """Share of codes at the ends of their range."""
    if isinstance(codes, Fp8Rows):
        return float((np.abs(codes.q_ND.astype(np.float32)) == 448).mean())
    low, high = -8, 7
    if isinstance(codes, Codes):
        low, high = (-127, 127) if codes.m_NG is None else (int(LEVELS[0]), int(LEVELS[-1]))
    return float(((codes.q_ND == low) | (codes.q_ND == high)).mean())
