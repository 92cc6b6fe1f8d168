"""Results that are not computed until somebody needs them, so that what follows can be taken into the same kernel.

A network asks for one op after the other; which of them share a launch is this backend's own business. A norm waits
until it is known whether its rows are wanted as numbers or as codes, a product until it is known what it is added to.
Every result is computed once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from twofold.backends.gpu import routed
from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.dense import product
from twofold.backends.gpu.kernels import quantize
from twofold.backends.gpu.kernels.norm import norm
from twofold.backends.gpu.kernels.swiglu import swiglu
from twofold.backends.gpu.weights import GpuWeight, Int4Weight, Int8Weight, RefinedWeight


class Rows(ABC):
    """Rows of numbers [T, D], kept in the dtypes and codes that were asked for so far.

    wants_codes: they are known to be multiplied by an integer weight.
    """

    def __init__(self, count: int, columns: int, device: torch.device) -> None:
        self.count, self.columns, self.device = count, columns, device
        self._values: dict[torch.dtype, Tensor] = {}
        self._codes: Codes | None = None
        self.wants_codes = False

    def __len__(self) -> int:
        return self.count

    @property
    def is_known(self) -> bool:
        """Whether the numbers were computed already."""
        return bool(self._values)

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers in this dtype."""
        if dtype not in self._values:
            self._values[dtype] = self.loose().to(dtype) if self.is_known else self.compute(dtype)
        return self._values[dtype]

    def loose(self) -> Tensor:
        """The numbers in whatever dtype they have or their kernel gives: for kernels that read any."""
        if not self.is_known:
            found = self.compute(None)
            self._values[found.dtype] = found
        return self._values.get(torch.float32, next(iter(self._values.values())))

    def codes(self) -> Codes:
        """As int8 codes."""
        if self._codes is None:
            self._codes = self.encode()
        return self._codes

    def added_to(self, x_TD: Tensor) -> Tensor:
        """x + these rows, float32."""
        return x_TD + self.loose()

    @abstractmethod
    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """The numbers in this dtype, or in the cheapest one."""

    def encode(self) -> Codes:
        """The codes."""
        return quantize.quantize(self.loose())


class Plain(Rows):
    """A tensor as it is."""

    def __init__(self, x_TD: Tensor) -> None:
        super().__init__(len(x_TD), x_TD.shape[-1], x_TD.device)
        self._given = x_TD
        self._values[x_TD.dtype] = x_TD

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        return self._given if dtype is None else self._given.to(dtype)


class Product(Rows):
    """x @ weight^T."""

    def __init__(self, x: Rows, weight: GpuWeight) -> None:
        super().__init__(len(x), weight.shape[-2], x.device)
        self.x, self.weight = x, weight
        x.wants_codes = x.wants_codes or isinstance(weight, Int8Weight | Int4Weight | RefinedWeight)

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        found = product(self.x, self.weight)
        return found if dtype is None else found.to(dtype)

    def added_to(self, x_TD: Tensor) -> Tensor:
        """See Rows."""
        return super().added_to(x_TD) if self.is_known else product(self.x, self.weight, x_TD)


class Routed(Rows):
    """The sum over the chosen experts of every token."""

    def __init__(self, call: routed.Call) -> None:
        super().__init__(len(call.x), call.down.shape[-2], call.x.device)
        self.call = call

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        found = routed.experts(self.call, None)
        return found if dtype is None else found.to(dtype)

    def added_to(self, x_TD: Tensor) -> Tensor:
        """See Rows."""
        return super().added_to(x_TD) if self.is_known else routed.experts(self.call, x_TD)


class Sum(Rows):
    """x + y, each part added by the kernel that computes it where it can."""

    def __init__(self, x: Rows, y: Rows) -> None:
        super().__init__(len(x), x.columns, x.device)
        self.x, self.y = x, y

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        found = self.y.added_to(self.x.values())
        return found if dtype is None else found.to(dtype)

    def added_to(self, x_TD: Tensor) -> Tensor:
        """See Rows."""
        if self.is_known:
            return super().added_to(x_TD)
        if isinstance(self.y, Routed) and not self.y.is_known:
            return routed.beside(self.y.call, lambda: self.x.added_to(x_TD))
        return self.y.added_to(self.x.added_to(x_TD))


class Normed(Rows):
    """RMS norm of rows, with a weight."""

    def __init__(self, x: Rows, weight_D: Tensor, epsilon: float) -> None:
        super().__init__(len(x), x.columns, x.device)
        self.x, self.weight_D, self.epsilon = x, weight_D, epsilon

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        if self.wants_codes and dtype == torch.float32:  # both come out of one launch
            self.codes()
            return self._values[dtype]
        return norm(self.x.values(), self.weight_D, self.epsilon, None, dtype or torch.float32)[1]

    def encode(self) -> Codes:
        """See Rows."""
        _, y_TD, codes = quantize.norm_quantize(self.x.values(), self.weight_D, self.epsilon)
        self._values.setdefault(torch.float32, y_TD)
        return codes


class Gated(Rows):
    """silu(gate) * up of the halves of rows."""

    def __init__(self, gate_up: Rows) -> None:
        super().__init__(len(gate_up), gate_up.columns // 2, gate_up.device)
        self.gate_up = gate_up

    def compute(self, dtype: torch.dtype | None) -> Tensor:
        """See Rows."""
        return swiglu(self.gate_up.loose(), dtype or torch.float32)

    def encode(self) -> Codes:
        """See Rows."""
        return super().encode() if self.is_known else quantize.swiglu_quantize(self.gate_up.loose())


@dataclass(frozen=True, eq=False)
class Chosen:
    """The experts (part 0) or the gates (part 1) of a choice of `active` experts for each token."""

    choice: routed.Choice
    part: int
    active: int


@dataclass(frozen=True, eq=False)
class Turn:
    """Cosines and sines [T, K/2] to rotate by, and whether pairs lie side by side."""

    cosine_TK2: Tensor
    sine_TK2: Tensor
    interleaved: bool

    def __eq__(self, other: object) -> bool:
        """Whether it is the same turn: of the same tensors."""
        return isinstance(other, Turn) and self.cosine_TK2 is other.cosine_TK2 and self.sine_TK2 is other.sine_TK2

    def __hash__(self) -> int:
        return hash((id(self.cosine_TK2), self.interleaved))


@dataclass(frozen=True, eq=False)
class Heads:
    """Some heads of a joint projection, and what is still to be done to them, in the order of the fields."""

    qkv: Rows
    part: Literal["q", "k", "v"]
    counts: tuple[int, int]
    turn: Turn | None = None
    epsilon: float | None = None
    factors_T: Tensor | None = None

    @property
    def size(self) -> int:
        """Elements of a head."""
        return self.qkv.columns // (self.counts[0] + 2 * self.counts[1])

    def rotated(self, turn: Turn) -> Heads:
        """Also rotated."""
        assert (self.turn, self.epsilon, self.factors_T) == (None, None, None), "rotation comes first"
        return replace(self, turn=turn)

    def normed(self, epsilon: float) -> Heads:
        """Also normed."""
        assert (self.epsilon, self.factors_T) == (None, None), "the norm comes after the rotation"
        return replace(self, epsilon=epsilon)

    def tempered(self, factors_T: Tensor) -> Heads:
        """Also scaled by position."""
        assert (self.part, self.factors_T) == ("q", None), "only queries have a temperature, and one"
        return replace(self, factors_T=factors_T)


def rows(x: Rows | Tensor) -> Rows:
    """What an op was given, as rows."""
    return x if isinstance(x, Rows) else Plain(x)
