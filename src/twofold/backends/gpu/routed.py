"""Tokens through their experts: few of them one by one, many of them sorted by expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twofold.backends.gpu.kernels import float_few, float_many, integer_few, integer_many, quantize
from twofold.backends.gpu.kernels.combine import combine
from twofold.backends.gpu.kernels.order import Order, order
from twofold.backends.gpu.kernels.swiglu import swiglu
from twofold.backends.gpu.kernels.unpack import widened
from twofold.backends.gpu.weights import (
    DenseWeight,
    Fp8Weight,
    GpuWeight,
    Group4Weight,
    Int4Weight,
    Int8Weight,
    IntegerWeight,
)

if TYPE_CHECKING:
    from twofold.backends.gpu.lazy import Rows

FEW_CODES, FEW_FLOATS = 24, 4
"""Pairs of a token and an expert up to which each reads its expert for itself."""
WIDENED_FROM = 2048
"""Pairs from which four-bit stacks are widened to eight bits first, once for all tiles."""
BESIDE = 32
"""Rows up to which experts run beside the shared one."""


class Choice:
    """The experts of every token and their gates, computed when they are first needed."""

    def __init__(self, compute: Callable[[], tuple[Tensor, Tensor]]) -> None:
        self._compute = compute

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """experts_TA int32 and gates_TA float32."""
        return self._compute()


@dataclass(frozen=True, eq=False)
class Call:
    """Rows x, the experts chosen for them, `active` of each, and the experts' weights."""

    x: Rows
    choice: Choice
    active: int
    gate_up: GpuWeight
    down: GpuWeight

    @property
    def rows(self) -> int:
        """Pairs of a token and an expert."""
        return len(self.x) * self.active

    @property
    def few(self) -> int:
        """Pairs up to which each reads its expert for itself."""
        return FEW_CODES if self.is_integer else FEW_FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether the experts take codes."""
        return isinstance(self.gate_up, Int8Weight | Int4Weight)

    @property
    def tile_dtype(self) -> torch.dtype:
        """What x is rounded to for float products in tiles: bfloat16, unless the weights are float32."""
        is_exact = isinstance(self.gate_up, DenseWeight) and self.gate_up.values.dtype == torch.float32
        return torch.float32 if is_exact else torch.bfloat16

    def prepare(self) -> None:
        """Have x in the forms the router and the experts take."""
        self.x.values()
        if self.is_integer:
            self.x.codes()
        else:
            self.x.values(torch.float32 if self.rows <= self.few else self.tile_dtype)


def experts(call: Call, add_TD: Tensor | None) -> Tensor:
    """Sum over the experts of each token, plus `add_TD` where there is one: float32 [T, D]."""
    return summed(call, pairs(call), add_TD)


def summed(call: Call, y_RD: Tensor, add_TD: Tensor | None) -> Tensor:
    """The rows of each token added up, and `add_TD` with them: float32 [T, D]."""
    return y_RD.float() if call.active == 1 and add_TD is None else combine(y_RD, call.active, add_TD)


def beside(call: Call, work: Callable[[], Tensor]) -> Tensor:
    """experts(call, work()), with router and experts on a stream of their own while `work` runs on this one.

    A decoding step's products are so short that starting and ending them takes a good part of their time; two chains
    of them at once fill each other's gaps.
    """
    if call.x.device.type != "cuda" or len(call.x) > BESIDE:
        return experts(call, work())
    here, side = torch.cuda.current_stream(), side_stream(call.x.device)
    call.prepare()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        y_RD = pairs(call)
    add_TD = work()
    here.wait_stream(side)
    return summed(call, y_RD, add_TD)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device that experts run on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def pairs(call: Call) -> Tensor:
    """down(swiglu(gate_up(gate * x))) of every token and expert: [T * A, D]."""
    active, rows = call.active, call.rows
    experts_R, gates_R = (tensor.reshape(-1) for tensor in call.choice.tensors)
    if not rows:
        return torch.empty(0, call.down.shape[-2], device=call.x.device)
    sorted_rows = (
        None
        if rows <= call.few
        else order(experts_R, call.gate_up.shape[0], integer_many.block_of(rows, call.gate_up.shape[0]))
    )
    through = through_integers if call.is_integer else through_floats
    return through(call, active, experts_R, gates_R, sorted_rows)


def through_integers(call: Call, active: int, experts_R: Tensor, gates_R: Tensor, sorted_rows: Order | None) -> Tensor:
    """down(swiglu(gate_up(gate * x))) of every pair, integer weights."""
    assert isinstance(call.gate_up, Int8Weight | Int4Weight)
    assert isinstance(call.down, Int8Weight | Int4Weight), "both products have one kind of format"
    if sorted_rows is None:
        hidden = integer_few.few_routed(call.x.codes(), active, experts_R, gates_R, call.gate_up)
        return integer_few.few_routed(quantize.swiglu_quantize(hidden), 1, experts_R, None, call.down)
    gate_up, down = (wide_enough(weight, len(experts_R)) for weight in (call.gate_up, call.down))
    hidden = integer_many.many_routed(call.x.codes(), active, sorted_rows, gates_R, gate_up)
    return integer_many.many_routed(quantize.swiglu_quantize(hidden), 1, sorted_rows, None, down)


def wide_enough(weight: IntegerWeight, rows: int) -> IntegerWeight:
    """The weight as its tiles are fastest for so many rows: four bits widened to eight where many share them."""
    return widened(weight) if isinstance(weight, Int4Weight) and rows >= WIDENED_FROM else weight


def through_floats(call: Call, active: int, experts_R: Tensor, gates_R: Tensor, sorted_rows: Order | None) -> Tensor:
    """down(swiglu(gate_up(gate * x))) of every pair, float weights and four-bit groups."""
    assert isinstance(call.gate_up, DenseWeight | Fp8Weight | Group4Weight)
    assert isinstance(call.down, DenseWeight | Fp8Weight | Group4Weight), "both products have one kind of format"
    if sorted_rows is None:
        hidden = float_few.few_routed(call.x.values(), active, experts_R, gates_R, call.gate_up)
        return float_few.few_routed(swiglu(hidden), 1, experts_R, None, call.down)
    dtype = call.tile_dtype
    hidden = float_many.many_routed(call.x.values(dtype), active, sorted_rows, gates_R, call.gate_up, dtype)
    return float_many.many_routed(swiglu(hidden, dtype), 1, sorted_rows, None, call.down)
