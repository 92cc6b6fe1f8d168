"""Coded weights before they are laid out in panels: what quantisers make and checkpoints hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from twofold.ops.packed import (
    COLUMN_STEP,
    GROUP_COLUMNS,
    PANEL_ROWS,
    AnyArray,
    Floats,
    Format,
    Fp8,
    Group4,
    Int4,
    Int8,
    Packed,
    Refined,
    pack_groups,
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


@dataclass(frozen=True)
class GroupCodes:
    """Rows of a Group4 weight: q_ND uint8 0..15; s_NG and z_NG float32 (float16 values), a pair per 32 columns.

    The last group may be short.
    """

    q_ND: npt.NDArray[np.uint8]
    s_NG: Floats
    z_NG: Floats

    @property
    def format(self) -> Format:
        """The packed format that holds these codes exactly."""
        return "group4"

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        groups_D = np.arange(self.q_ND.shape[1]) // GROUP_COLUMNS
        result: Floats = (self.q_ND - self.z_NG[:, groups_D]) * self.s_NG[:, groups_D]
        return result


@dataclass(frozen=True)
class Fp8Codes:
    """Rows of an Fp8 weight: q_ND float8_e4m3fn, s_N float32."""

    q_ND: AnyArray
    s_N: Floats

    @property
    def format(self) -> Format:
        """The packed format that holds these values exactly."""
        return "fp8"

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        result: Floats = self.q_ND.astype(np.float32) * self.s_N[:, None]
        return result


Coded: TypeAlias = Codes | GroupCodes | Fp8Codes
"""Rows in any packed format but the dense ones."""


def join(parts: Sequence[Coded]) -> Coded:
    """Codes of one format, one under another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Codes):
        return join_codes([part for part in parts if isinstance(part, Codes)])
    fields = ("q_ND", "s_NG", "z_NG") if isinstance(first, GroupCodes) else ("q_ND", "s_N")
    return type(first)(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def join_codes(parts: Sequence[Codes]) -> Codes:
    """The integer ones, one under another."""
    multipliers = [part.m_NG for part in parts if part.m_NG is not None]
    residuals = [part.residual for part in parts if part.residual is not None]
    return Codes(
        np.concatenate([part.q_ND for part in parts]),
        np.concatenate(multipliers) if multipliers else None,
        np.concatenate([part.s_N for part in parts]),
        join_codes(residuals) if residuals else None,
    )


def widen(codes: Codes) -> Codes:
    """Four-bit codes as eight-bit ones: multiplier * code fits an int8, so nothing is lost."""
    if codes.m_NG is None:
        return codes
    assert codes.residual is None, "eight bits do not hold a Refined weight"
    groups_ND = np.repeat(codes.m_NG, GROUP_COLUMNS, axis=1)[:, : codes.q_ND.shape[1]]
    return Codes(codes.q_ND * groups_ND, None, codes.s_N)


def store(codes: Coded, into: Packed, first_row: int) -> None:
    """Lay codes out as rows first_row.. of a 2-D weight of their format; first_row as for Packer.encode."""
    if isinstance(codes, Fp8Codes):
        assert isinstance(into, Fp8), "float8 values belong into an Fp8 weight"
        rows = slice(first_row, first_row + len(codes.q_ND))
        into.values[rows], into.scales[rows] = codes.q_ND.view(np.uint8), codes.s_N
    elif isinstance(codes, GroupCodes):
        store_groups(codes, into, first_row)
    elif isinstance(into, Refined):
        assert codes.residual is not None, "a Refined weight has two halves"
        store_integers(codes.residual, into.residual, first_row)
        store_integers(codes, into.coarse, first_row)
    else:
        store_integers(codes, into, first_row)


def store_groups(codes: GroupCodes, into: Packed, first_row: int) -> None:
    """Rows of a Group4 weight; what pads them is zero."""
    assert isinstance(into, Group4), "codes with a scale per group belong into a Group4 weight"
    rows, columns = codes.q_ND.shape
    height, width = padded(rows, PANEL_ROWS), padded(columns, COLUMN_STEP)
    q_ND = np.zeros((height, width), np.uint8)
    q_ND[:rows, :columns] = codes.q_ND
    pairs = np.zeros((2, height, width // GROUP_COLUMNS), np.float32)
    pairs[:, :rows, : codes.s_NG.shape[1]] = codes.s_NG, codes.z_NG
    panels = slice(first_row // PANEL_ROWS, (first_row + height) // PANEL_ROWS)
    into.codes[panels], into.halves[panels] = pack_groups(q_ND, pairs[0], pairs[1])


def store_integers(codes: Codes, into: Packed, first_row: int) -> None:
    """Rows of an Int8 or Int4 weight."""
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
