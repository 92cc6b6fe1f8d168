"""Device weights of random values, and rows in the order of their experts, for the tests of float products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu.weights import GpuWeight, decode, to_device
from twofold.ops import cases, packed
from twofold.ops.packed import Format
from twofold.ops.reference import ReferenceOps

FLOATS: tuple[Format, ...] = ("f32", "bf16", "fp8", "group4")
CPU = torch.device("cpu")


def make(form: Format, *shape: int) -> GpuWeight:
    """A weight of normal values, packed by the reference."""
    weight = cases.pack(ReferenceOps(), form, cases.normal(cases.generator(*shape), *shape))
    assert not isinstance(weight, packed.Refined)
    return to_device(weight, CPU)


def activations(tokens: int, columns: int) -> Tensor:
    """Activations as networks have them, such as bfloat16 holds exactly."""
    return torch.from_numpy(cases.mild_outliers(cases.generator(tokens, columns), tokens, columns)).bfloat16().float()


def choices(tokens: int, active: int, experts: int) -> tuple[Tensor, Tensor]:
    """Different experts for every token, and gates: int32 and float32 [tokens * active]."""
    rng = cases.generator(tokens, active, experts)
    chosen = np.array([rng.permutation(experts)[:active] for _ in range(tokens)], np.int32)
    return torch.from_numpy(chosen).flatten(), torch.from_numpy(rng.uniform(0.1, 0.9, chosen.size).astype(np.float32))


def products(x_TD: Tensor, active: int, experts_R: Tensor, gates_R: Tensor, weight: GpuWeight) -> Tensor:
    """What a routed product should give, float64."""
    x_RD = x_TD.double().repeat_interleave(active, 0) * gates_R.double()[:, None]
    return torch.einsum("rnd,rd->rn", decode(weight).double()[experts_R.long()], x_RD)


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    assert got.shape == expected.shape
    if not got.numel():
        return 0.0
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


@dataclass(frozen=True)
class Ordered:
    """Rows by expert in blocks, as kernels.order has them; a block is filled up with a number that is no row."""

    rows: Tensor
    expert_of_block: Tensor


def ordered(experts_R: Tensor, experts: int, block: int) -> Ordered:
    """The plain way to put rows in order, with as many blocks as the worst case needs."""
    count = -(-len(experts_R) // block) + experts
    rows = torch.full((count, block), len(experts_R), dtype=torch.int32)
    expert_of_block = torch.full((count,), -1, dtype=torch.int32)
    place = 0
    for expert in range(experts):
        for part in torch.nonzero(experts_R == expert).flatten().int().split(block):
            rows[place, : len(part)] = part
            if len(part):
                expert_of_block[place], place = expert, place + 1
    return Ordered(rows.flatten(), expert_of_block)
