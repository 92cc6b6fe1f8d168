"""Integer weights before they are laid out in panels: what quantisers make and checkpoints hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.ops.packed import (
    COLUMN_STEP,
    GROUP_COLUMNS,
    PANEL_ROWS,
    Floats,
    Format,
    Int4,
    Int8,
    Packed,
    Refined,
    pack_nibbles,
    padded,
)

Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Codes:
    """Rows of a weight as integers; see ops.packed for their meaning.

    q_ND int8; m_NG int8 multipliers, one per group of 32 columns (the last group may be short), None for eight-bit
    codes; s_N float32. `residual` is the second half of a Refined weight.
    """

    q_ND: Bytes
    m_NG: Bytes | None
    s_N: Floats
    residual: Codes | None = None

    @property
    def format(self) -> Format:
        """The packed format that holds these codes exactly."""
        if self.m_NG is None:
            return "int8"
        return "int4" if self.residual is None else "refined"

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        integers_ND = self.q_ND.astype(np.float32)
        if self.m_NG is not None:
            integers_ND *= np.repeat(self.m_NG, GROUP_COLUMNS, axis=1)[:, : self.q_ND.shape[1]]
        result: Floats = integers_ND * self.s_N[:, None]
        return result if self.residual is None else result + self.residual.values()

    def slice(self, start: int, stop: int) -> Codes:
        """Rows start..stop."""
        return Codes(
            self.q_ND[start:stop],
            None if self.m_NG is None else self.m_NG[start:stop],
            self.s_N[start:stop],
            None if self.residual is None else self.residual.slice(start, stop),
        )


def join(parts: Sequence[Codes]) -> Codes:
    """Codes of one format, one under another."""
    if len(parts) == 1:
        return parts[0]
    multipliers = [part.m_NG for part in parts if part.m_NG is not None]
    residuals = [part.residual for part in parts if part.residual is not None]
    return Codes(
        np.concatenate([part.q_ND for part in parts]),
        np.concatenate(multipliers) if multipliers else None,
        np.concatenate([part.s_N for part in parts]),
        join(residuals) if residuals else None,
    )


def widen(codes: Codes) -> Codes:
    """Four-bit codes as eight-bit ones: multiplier * code fits an int8, so nothing is lost."""
    if codes.m_NG is None:
        return codes
    assert codes.residual is None, "eight bits do not hold a Refined weight"
    groups_ND = np.repeat(codes.m_NG, GROUP_COLUMNS, axis=1)[:, : codes.q_ND.shape[1]]
    return Codes(codes.q_ND * groups_ND, None, codes.s_N)


def store(codes: Codes, into: Packed, first_row: int) -> None:
    """Lay codes out as rows first_row.. of a 2-D weight of their format; first_row as for Packer.encode."""
    if isinstance(into, Refined):
        assert codes.residual is not None, "a Refined weight has two halves"
        store(codes.residual, into.residual, first_row)
        store(Codes(codes.q_ND, codes.m_NG, codes.s_N), into.coarse, first_row)
        return
    assert isinstance(into, Int8 | Int4), "codes belong into integer formats"
    rows, columns = codes.q_ND.shape
    height, width = padded(rows, PANEL_ROWS), padded(columns, COLUMN_STEP)
    q_ND = np.zeros((height, width), np.int8)
    q_ND[:rows, :columns] = codes.q_ND
    panels = slice(first_row // PANEL_ROWS, (first_row + height) // PANEL_ROWS)
    if isinstance(into, Int8):
        into.codes[panels] = q_ND.reshape(-1, PANEL_ROWS, width // 4, 4).swapaxes(1, 2)
    else:
        assert codes.m_NG is not None, "four-bit codes have multipliers"
        m_NG = np.ones((height, width // GROUP_COLUMNS), np.int8)
        m_NG[:rows, : codes.m_NG.shape[1]] = codes.m_NG
        into.codes[panels], into.multipliers[panels] = pack_nibbles(q_ND, m_NG)
    into.scales[first_row : first_row + rows] = codes.s_N
    into.scales[first_row + rows : first_row + height] = 0
