"""Tokens through their experts: few of them one by one, many of them sorted by expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels import (
    early,
    float_few,
    float_many,
    integer_few,
    integer_many,
    integer_several,
    quantize,
)
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
FEW_BEFORE_SEVERAL = 8
"""FEW_CODES where there is a kernel for several rows (integer_several): of 8, 16 and 32 pairs only 8 were faster so."""
SEVERAL = 8
"""Pairs for each expert up to which integer_several takes them, in blocks of as many rows."""
WIDENED_FROM = 200
"""Pairs for each expert from which four-bit stacks are widened to eight bits first, once for all tiles.

Worked out from what an H100 showed for 16384 x 5120: widening takes 62 us an expert, and then a pair 0.16 us instead of
0.46 (1,018 and 365 TOP/s).
"""
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
        if not self.is_integer:
            return FEW_FLOATS
        return FEW_BEFORE_SEVERAL if integer_several.has_kernel(self.x.device) else FEW_CODES

    @property
    def is_integer(self) -> bool:
        """Whether the experts take codes."""
        return isinstance(self.gate_up, Int8Weight | Int4Weight)

    @property
    def is_several(self) -> bool:
        """Whether experts have so few rows that matrix units take their weights out of registers."""
        has_kernel = self.is_integer and integer_several.has_kernel(self.x.device)
        return has_kernel and self.rows <= SEVERAL * self.gate_up.shape[0]

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
    return summed(call, hidden(call), add_TD)


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
    with early.paused():
        with torch.cuda.stream(side):
            found = hidden(call)
        add_TD = work()
        here.wait_stream(side)
        return summed(call, found, add_TD)


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device that experts run on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class Hidden:
    """swiglu(gate_up(gate * x)) of every token and expert, and the order they are in where there are many."""

    rows: Codes | Tensor
    order: Order | None


def hidden(call: Call) -> Hidden:
    """Everything up to the last product: the router, the first product and the non-linearity."""
    experts_R, gates_R = (tensor.reshape(-1) for tensor in call.choice.tensors)
    if call.rows <= call.few:
        return Hidden((few_codes if call.is_integer else few_floats)(call, experts_R, gates_R), None)
    count = call.gate_up.shape[0]
    block = SEVERAL if call.is_several else integer_many.block_of(call.rows, count)
    sorted_rows = order(experts_R, count, block)
    return Hidden((many_codes if call.is_integer else many_floats)(call, sorted_rows, gates_R), sorted_rows)


def summed(call: Call, found: Hidden, add_TD: Tensor | None) -> Tensor:
    """The last product, the rows of each token added up, and `add_TD` with them: float32 [T, D]."""
    if call.active == 1 and found.order is None:
        return last(call, found, add_TD)
    y_RD = last(call, found, None)
    return y_RD.float() if call.active == 1 and add_TD is None else combine(y_RD, call.active, add_TD)


def last(call: Call, found: Hidden, add_RD: Tensor | None) -> Tensor:
    """The last product of every pair; of few ones plus `add_RD`, where it is given."""
    experts_R = call.choice.tensors[0].reshape(-1)
    if isinstance(found.rows, Codes):
        down = integers(call.down)
        if found.order is None:
            return integer_few.few_routed(found.rows, 1, experts_R, None, down, add_RN=add_RD)
        if call.is_several:
            return integer_several.several_routed(found.rows, 1, found.order, None, down)
        return integer_many.many_routed(found.rows, 1, found.order, None, wide_enough(down, call.rows))
    if found.order is None:
        return float_few.few_routed(found.rows, 1, experts_R, None, floats(call.down), add_RN=add_RD)
    return float_many.many_routed(found.rows, 1, found.order, None, floats(call.down))


def few_codes(call: Call, experts_R: Tensor, gates_R: Tensor) -> Codes:
    """Of every pair by itself, integer weights."""
    gate_up = integers(call.gate_up)
    return quantize.swiglu_quantize(integer_few.few_routed(call.x.codes(), call.active, experts_R, gates_R, gate_up))


def many_codes(call: Call, sorted_rows: Order, gates_R: Tensor) -> Codes:
    """Of all pairs by expert, integer weights."""
    if call.is_several:
        y_RN = integer_several.several_routed(call.x.codes(), call.active, sorted_rows, gates_R, integers(call.gate_up))
        return quantize.swiglu_quantize(y_RN)
    gate_up = wide_enough(integers(call.gate_up), call.rows)
    return quantize.swiglu_quantize(
        integer_many.many_routed(call.x.codes(), call.active, sorted_rows, gates_R, gate_up)
    )


def few_floats(call: Call, experts_R: Tensor, gates_R: Tensor) -> Tensor:
    """Of every pair by itself, float weights and four-bit groups."""
    return swiglu(float_few.few_routed(call.x.values(), call.active, experts_R, gates_R, floats(call.gate_up)))


def many_floats(call: Call, sorted_rows: Order, gates_R: Tensor) -> Tensor:
    """Of all pairs in tiles, float weights and four-bit groups."""
    dtype = call.tile_dtype
    x_TD = call.x.values(dtype)
    return swiglu(float_many.many_routed(x_TD, call.active, sorted_rows, gates_R, floats(call.gate_up), dtype), dtype)


def integers(weight: GpuWeight) -> IntegerWeight:
    """A weight that takes codes."""
    assert isinstance(weight, Int8Weight | Int4Weight), "both products have one kind of format"
    return weight


def floats(weight: GpuWeight) -> float_few.FloatWeight:
    """A weight that takes numbers."""
    assert isinstance(weight, DenseWeight | Fp8Weight | Group4Weight), "both products have one kind of format"
    return weight


def wide_enough(weight: IntegerWeight, rows: int) -> IntegerWeight:
    """The stack as its tiles are fastest for so many rows: four bits widened to eight where many share them."""
    return widened(weight) if isinstance(weight, Int4Weight) and rows >= WIDENED_FROM * weight.shape[0] else weight
