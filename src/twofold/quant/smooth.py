"""Smoothing folded into the weights: channels with large activations are made smaller, and what reads them larger.

A channel j that is linear between two weights is divided by s_j where it is made and multiplied by s_j where it is
read, s_j = max|x_j|^a / max|w_j|^(1-a) over the calibration text and over all matrices that read the channel. Three
places are linear: between a norm's weight and its readers (the router is one of them), between the `up` half of
gate_up and down, and between v_proj and o_proj. Every s_j is rounded to a power of two, so that folding is exact to the
bit in any float format.

Source: Xiao et al. 2022 (SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from twofold.ops.interface import Ops
from twofold.ops.packed import AnyArray, Dense, Floats, Packed
from twofold.ops.types import Array
from twofold.quant.rotate import READERS, matrices, values_of
from twofold.quant.units import Unit

MIGRATION = 0.5
"""a: the share of a channel's size that moves from the activations into the weights."""


class Extremes:
    """Ops that keep the largest magnitude of every input column of every linear weight of a unit.

    `of` gives them by weight; experts have a name of their own, experts_down.3. A weight no token reached has none.
    """

    def __init__(self, ops: Ops, weights: Mapping[str, Packed]) -> None:
        self._ops = ops
        self._names = {id(weight): name for name, weight in weights.items()}
        self.of: dict[str, Floats] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def linear(self, x_TD: Array, weight_ND: Packed) -> Array:
        """Multiply, and look at the inputs."""
        self.see(self._names[id(weight_ND)], x_TD)
        return self._ops.linear(x_TD, weight_ND)

    def logits(self, x_RD: Array, head_VD: Packed) -> None:
        """Look at the inputs; nobody asks for logits here."""
        self.see(self._names[id(head_VD)], x_RD)

    def experts(self, x_TD: Array, experts_TA: Array, gates_TA: Array, gate_up_END: Packed, down_EDF: Packed) -> Array:
        """Run the experts, and look at what every expert's down projection is given."""
        gates_TA = np.asarray(gates_TA)
        for expert in np.unique(experts_TA):
            rows, slots = np.nonzero(np.asarray(experts_TA) == expert)
            gated_TD = np.ascontiguousarray(np.asarray(x_TD)[rows] * gates_TA[rows, slots][:, None], np.float32)
            hidden_TF = self._ops.swiglu(self._ops.linear(gated_TD, Dense(values_of(gate_up_END)[expert])))
            self.see(f"{self._names[id(down_EDF)]}.{expert}", hidden_TF)
        return self._ops.experts(x_TD, experts_TA, gates_TA, gate_up_END, down_EDF)

    def see(self, name: str, x_TD: Array) -> None:
        """Take the largest magnitudes of these inputs into account."""
        found_D: Floats = np.abs(np.asarray(x_TD, np.float32)).max(axis=0)
        self.of[name] = np.maximum(self.of[name], found_D) if name in self.of else found_D


def smooth_unit(unit: Unit, weights: Mapping[str, Packed], largest: Mapping[str, Floats], kv_heads: int) -> None:
    """Fold smoothing into the weights of a unit (Dense), in place; `largest` is what Extremes found."""
    names = [target.name for target in unit.targets]
    for norm in dict.fromkeys(place + READERS[part] for place, part in map(split, names) if part in READERS):
        smooth_norm(norm, weights, largest)
    for name in names:
        place, part = split(name)
        if part == "down":
            smooth_hidden(weights[f"{place}gate_up"], weights[name], largest[name])
        if part == "experts_down":
            for index, (gate_up_ND, down_DF) in enumerate(
                zip(matrices(weights[f"{place}experts_gate_up"]), matrices(weights[name]), strict=True)
            ):
                if f"{name}.{index}" in largest:
                    smooth_hidden(Dense(gate_up_ND), Dense(down_DF), largest[f"{name}.{index}"])
        if part == "output":
            smooth_values(weights[f"{place}qkv"], weights[name], largest[name], kv_heads)


def split(name: str) -> tuple[str, str]:
    """Where a weight is and what it is: layers.3.qkv is ("layers.3.", "qkv")."""
    part = name.rpartition(".")[2]
    return name.removesuffix(part), part


def smooth_norm(norm: str, weights: Mapping[str, Packed], largest: Mapping[str, Floats]) -> None:
    """Between a norm's weight and all that reads the normed stream."""
    place, part = split(norm)
    readers = [f"{place}{name}" for name, its_norm in READERS.items() if its_norm == part]
    present = [name for name in readers if name in weights]
    seen_D = next(largest[name] for name in present if name in largest)
    columns_D = largest_columns(matrix for name in present for matrix in matrices(weights[name]))
    scales_D = smoothing(seen_D, columns_D)
    multiply(values_of(weights[norm]), np.float32(1) / scales_D)
    for name in present:
        for matrix in matrices(weights[name]):
            multiply(matrix, scales_D)


def smooth_hidden(gate_up: Packed, down: Packed, largest_F: Floats) -> None:
    """Between the up half of a SwiGLU, which its output is linear in, and the down projection."""
    up_FD, down_DF = values_of(gate_up)[len(largest_F) :], values_of(down)
    scales_F = smoothing(largest_F, largest_columns([down_DF]))
    multiply(up_FD, np.float32(1) / scales_F[:, None])
    multiply(down_DF, scales_F)


def smooth_values(qkv: Packed, output: Packed, largest_N: Floats, kv_heads: int) -> None:
    """Between v and o; the query heads that share a key-value head share its scales."""
    columns_N = largest_columns([values_of(output)])
    v_rows = (len(values_of(qkv)) - len(largest_N)) // 2
    shape = (kv_heads, -1, v_rows // kv_heads)
    scales_GK = smoothing(largest_N.reshape(shape).max(axis=1), columns_N.reshape(shape).max(axis=1))
    multiply(values_of(qkv)[-v_rows:], np.float32(1) / scales_GK.reshape(-1, 1))
    shared_N = np.broadcast_to(scales_GK[:, None], columns_N.reshape(shape).shape).reshape(-1)
    multiply(values_of(output), shared_N)


def smoothing(largest_x: Floats, largest_w: Floats, migration: float = MIGRATION) -> Floats:
    """max|x|^a / max|w|^(1-a) as a power of two, one on average; one for channels that are always zero."""
    is_used = (largest_x > 0) & (largest_w > 0)
    exponents = np.zeros(largest_x.shape, np.float32)
    exponents[is_used] = migration * np.log2(largest_x[is_used]) - (1 - migration) * np.log2(largest_w[is_used])
    if is_used.any():
        exponents[is_used] -= exponents[is_used].mean()
    result: Floats = np.exp2(np.rint(exponents)).astype(np.float32)
    return result


def largest_columns(items: Iterator[AnyArray] | list[AnyArray]) -> Floats:
    """The largest magnitude of every column over several matrices [N, D]."""
    found = [np.abs(matrix).max(axis=0).astype(np.float32) for matrix in items]
    result: Floats = np.max(found, axis=0)
    return result


def multiply(values: AnyArray, scales: Floats) -> None:
    """Multiply by powers of two in place, whatever the float format: nothing is rounded."""
    values[:] = values.astype(np.float32) * scales
