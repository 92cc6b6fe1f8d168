"""The part of a weight that one rank holds, cut out of packed weights on the host: nothing is quantised again.

Packed formats are cut between panels of 16 rows and between pairs of groups, 64 columns; floats anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from twofold.backends.gpu.weights import GpuWeight, to_device
from twofold.errors import SettingsError
from twofold.ops.layout import (
    COLUMN_STEP,
    GROUP_COLUMNS,
    PANEL_ROWS,
    AnyArray,
    Dense,
    Format,
    Fp8,
    Group4,
    Int4,
    Int8,
    Packed,
    Packer,
    Refined,
    padded,
)
from twofold.ops.types import Target

Kind = Literal["whole", "rows", "partial", "gathered", "experts"]
FLOATS: tuple[Format, ...] = ("f32", "bf16", "fp8")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one rank keeps of a weight; None is all of it.

    kind: "rows" gives results that stay on the rank, "partial" sums that are to be added up over the ranks,
    "gathered" columns to be put side by side, "experts" all results of some experts.
    """

    kind: Kind = "whole"
    rows: tuple[range, ...] | None = None
    columns: range | None = None
    experts: range | None = None

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is kept of a weight of this shape."""
        if len(whole) == 1:
            return whole
        *stack, rows, columns = whole
        if self.experts is not None:
            stack = [len(self.experts)]
        rows = rows if self.rows is None else sum(len(stretch) for stretch in self.rows)
        return (*stack, rows, columns if self.columns is None else len(self.columns))


@dataclass(frozen=True, eq=False)
class Partial:
    """The columns of a weight from `first` on; all ranks together have `columns`."""

    weight: GpuWeight
    first: int
    columns: int


@dataclass(frozen=True, eq=False)
class Gathered:
    """The rows of a weight from `first` on; all ranks together have `rows`."""

    weight: GpuWeight
    first: int
    rows: int


@dataclass(frozen=True, eq=False)
class Own:
    """The experts of a stack from `first` on."""

    weight: GpuWeight
    first: int


Shard: TypeAlias = GpuWeight | Partial | Gathered | Own


def check_cut(target: Target, form: Format, cut: Cut) -> None:
    """Raise SettingsError where a packed weight cannot be cut like this."""
    if form in FLOATS or len(target.shape) == 1:
        return
    rows, columns = target.shape[-2:]
    starts = [stretch.start for stretch in cut.rows or ()]
    inner = [stretch.stop for stretch in cut.rows or () if stretch.stop != rows]
    if any(edge % PANEL_ROWS for edge in starts + inner):
        raise SettingsError(
            f"{target.name} has {rows} rows, which these ranks cannot share: {form} weights are cut between "
            f"{PANEL_ROWS} rows. Use fewer --ranks or --dtype bf16."
        )
    if cut.columns is not None and any(
        edge % COLUMN_STEP for edge in (cut.columns.start, cut.columns.stop) if edge != columns
    ):
        raise SettingsError(
            f"{target.name} has {columns} columns, which these ranks cannot share: {form} weights are cut between "
            f"{COLUMN_STEP} columns. Use fewer --ranks or --dtype bf16."
        )


def take(weight: Packed, cut: Cut) -> Packed:
    """What a rank keeps of a packed weight: views where one stretch is all there is."""
    if isinstance(weight, Refined):
        coarse, residual = take(weight.coarse, cut), take(weight.residual, cut)
        assert isinstance(coarse, Int4)
        assert isinstance(residual, Int4)
        return Refined(coarse, residual)
    shape = cut.shape(weight.shape)
    if isinstance(weight, Dense):
        return Dense(weight.values if len(shape) == 1 else Taken(cut, -2, -1).of(weight.values))
    if isinstance(weight, Fp8):
        return Fp8(Taken(cut, -2, -1).of(weight.values), Taken(cut, -1).of(weight.scales), shape)
    scales = Taken(cut, -1, pads=True)
    if isinstance(weight, Int8):
        codes = Taken(cut, -4, -3, row_step=PANEL_ROWS, column_step=4, pads=True)
        return Int8(codes.of(weight.codes), scales.of(weight.scales), shape)
    codes = Taken(cut, -5, -4, row_step=PANEL_ROWS, column_step=GROUP_COLUMNS, pads=True)
    if isinstance(weight, Group4):
        halves = Taken(cut, -4, -3, row_step=PANEL_ROWS, column_step=GROUP_COLUMNS, pads=True)
        return Group4(codes.of(weight.codes), halves.of(weight.halves), shape)
    multipliers = Taken(cut, -3, -2, row_step=PANEL_ROWS, column_step=GROUP_COLUMNS, pads=True)
    return Int4(codes.of(weight.codes), multipliers.of(weight.multipliers), scales.of(weight.scales), shape)


@dataclass(frozen=True)
class Taken:
    """How a cut of rows and columns reads in one array of a format.

    The array has rows along one axis, `row_step` to an index, and columns along another (None: it has none). `pads`:
    rows and columns fill whole panels and column steps, the last of them with zeros.
    """

    cut: Cut
    row_axis: int
    column_axis: int | None = None
    row_step: int = 1
    column_step: int = 1
    pads: bool = False

    def of(self, array: AnyArray) -> AnyArray:
        """The part of the array."""
        if self.cut.experts is not None:
            array = array[self.cut.experts.start : self.cut.experts.stop]
        if self.cut.columns is not None and self.column_axis is not None:
            array = array[self.index(self.column_axis, array.ndim, self.cut.columns, COLUMN_STEP, self.column_step)]
        if self.cut.rows is None:
            return array
        parts = [
            array[self.index(self.row_axis, array.ndim, stretch, PANEL_ROWS, self.row_step)]
            for stretch in self.cut.rows
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=self.row_axis)

    def index(self, axis: int, dimensions: int, stretch: range, unit: int, step: int) -> tuple[Any, ...]:
        """What picks a stretch along an axis."""
        stop = padded(stretch.stop, unit) if self.pads else stretch.stop
        picked: list[Any] = [slice(None)] * dimensions
        picked[axis] = slice(stretch.start // step, -(-stop // step))
        return tuple(picked)


class ShardPacker:
    """Packs whole weights in the host's memory with another packer, one at a time, and moves this rank's part on."""

    moves_weights = True

    def __init__(self, host: Packer, device: torch.device, cut_of: Callable[[Target], Cut]) -> None:
        self._device = device
        self._cut_of = cut_of
        self.arena = host.arena
        self.encode = host.encode

    def finish(self, weight: Packed, target: Target) -> Shard:
        """This rank's part on the device; the memory on the host is free."""
        cut = self._cut_of(target)
        kept = to_device(take(weight, cut), self._device)
        if cut.kind == "partial":
            assert cut.columns is not None
            return Partial(kept, cut.columns.start, target.shape[-1])
        if cut.kind == "gathered":
            assert cut.rows is not None
            return Gathered(kept, cut.rows[0].start, target.shape[0])
        if cut.kind == "experts":
            assert cut.experts is not None
            return Own(kept, cut.experts.start)
        return kept


def stretch_of(count: int, unit: int, rank: int, ranks: int) -> range:
    """The part of `count` things that a rank gets, cut between units; sizes differ by one unit."""
    units = -(-count // unit)
    return range(min(count, units * rank // ranks * unit), min(count, units * (rank + 1) // ranks * unit))
