"""Weights on their way into a graph: read one matrix at a time, laid out as operators want them, written at once.

A graph keeps matrices transposed, [D, N], because that is how MatMul multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from twofold.errors import QuantisationError
from twofold.export.files import Span
from twofold.export.forms import Form
from twofold.export.graph import Graph
from twofold.ops.packed import (
    GROUP_COLUMNS,
    AnyArray,
    Dense,
    Floats,
    Format,
    Fp8,
    Group4,
    Int8,
    Packed,
    decode,
    integer_rows,
    nibbles,
)
from twofold.ops.types import Target

ReadMatrix = Callable[[Target, int | None, Format], Packed]
"""read(target, expert, format): one matrix of the checkpoint, packed; `expert` is None for what is no stack."""

LOADED_AS: Mapping[Form, Format] = {
    "f32": "f32", "f16": "f32", "bf16": "bf16", "int8": "int8", "fp8": "fp8", "int4": "f32",
}  # fmt: skip
TYPES: Mapping[Form, int] = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int4": TensorProto.INT4,
}
SYMMETRIC_ZERO = 8
"""The zero point at which stored codes 0..15 mean -8..7."""
SLICE_ROWS = 16
"""Rows that are rounded at a time: the copies this takes stay in the processor's cache."""
SCALE_FACTORS = np.linspace(0.7, 1.1, 9, dtype=np.float32)
"""Scales tried for a group, relative to the one that sends its extreme value to -8."""


@dataclass(frozen=True)
class GraphWeight:
    """A weight the network hands to the ops: which one, and its form in the graph."""

    target: Target
    form: Form

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., N, D]."""
        return self.target.shape


@dataclass(frozen=True)
class Field:
    """One tensor of a weight: what is added to the weight's name, its ONNX type, shape and bytes."""

    suffix: str
    dtype: int
    shape: tuple[int, ...]
    data: AnyArray


class Weights:
    """Reads matrices and writes them into the weights file, each once.

    rounded: names of weights whose own four-bit codes could not be kept.
    """

    def __init__(self, graph: Graph, read: ReadMatrix, grouped: Collection[str]) -> None:
        self.graph = graph
        self._read = read
        self._grouped = grouped
        self._names: dict[str, list[str]] = {}
        self.rounded: set[str] = set()

    def matrix(self, weight: GraphWeight, expert: int | None = None) -> Packed:
        """One matrix as packed by the weight's form; of int4 a Dense or a Group4."""
        packed = self._read(weight.target, expert, read_as(weight, self._grouped))
        if isinstance(packed, Group4) and not is_symmetric(packed):
            self.rounded.add(weight.target.name)
        return packed

    def plain(self, weight: GraphWeight) -> list[str]:
        """Place a weight as it is read, [N, D] or [D]; an embedding may be asked for again, as the head."""
        return self.place(weight.target.name, None, (as_rows(weight, self.matrix(weight)) for _ in range(1)))

    def turned(self, weight: GraphWeight, expert: int | None = None) -> list[str]:
        """Place a matrix as [D, N], one of a stack under a name of its own."""
        name = f"{weight.target.name}.turned" if expert is None else f"{weight.target.name}.{expert}"
        return self.place(name, None, (transposed(weight, self.matrix(weight, expert)) for _ in range(1)))

    def place(self, name: str, stack: int | None, matrices: Iterable[list[Field]]) -> list[str]:
        """Write the tensors of a weight, or of a stack of `stack` of them; returns their names in the graph.

        A name that was written before is not written again. The first tensor is streamed, further ones (scales) are
        kept until it is whole.
        """
        if name not in self._names:
            self._names[name] = [self.graph.weight(*item) for item in self._write(name, stack, matrices)]
        return self._names[name]

    def _write(
        self, name: str, stack: int | None, matrices: Iterable[list[Field]]
    ) -> Iterable[tuple[str, int, tuple[int, ...], Span]]:
        file = self.graph.file
        begin = file.begin()
        first, others = None, list[list[Field]]()
        for fields in matrices:
            first = fields[0]
            file.append(first.data)
            others.append(fields[1:])
        assert first is not None, f"{name} has no matrices"
        prefix = () if stack is None else (stack,)
        yield name + first.suffix, first.dtype, (*prefix, *first.shape), Span(begin, file.size_bytes - begin)
        for parts in zip(*others, strict=True):
            begin = file.begin()
            for part in parts:
                file.append(part.data)
            yield name + part.suffix, part.dtype, (*prefix, *part.shape), Span(begin, file.size_bytes - begin)


def read_as(weight: GraphWeight, grouped: Collection[str]) -> Format:
    """How a weight is read; `grouped` are those the checkpoint has four-bit codes of, which int4 may keep."""
    is_kept = weight.form == "int4" and weight.target.name in grouped
    return "group4" if is_kept else LOADED_AS[weight.form]


def stands_for(weight: GraphWeight, packed: Packed) -> Floats:
    """What a matrix (or vector) in its form stands for, float32; `packed` is how it was read."""
    if weight.form == "int4":
        q_ND, scales_NG = int4_codes(packed, weight.target.name)
        values: Floats = q_ND * np.repeat(scales_NG, GROUP_COLUMNS, axis=1)[:, : q_ND.shape[1]]
        return values
    values = values_of(packed, weight.target.name)
    return half(values, weight.target.name).astype(np.float32) if weight.form == "f16" else values


def values_of(packed: Packed, name: str) -> Floats:
    """What a matrix stands for; QuantisationError for values that are not finite."""
    values = decode(packed)
    if not np.isfinite(values).all():
        raise QuantisationError(
            f"{name} holds values that are not finite; the checkpoint is damaged. Download it again."
        )
    return values


def half(values: Floats, name: str) -> npt.NDArray[np.float16]:
    """As float16; QuantisationError where that overflows."""
    largest = float(np.abs(values).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise QuantisationError(f"{name} has a value of {largest:g}, more than float16 holds. Choose --dtype bf16.")
    return values.astype(np.float16)


def int4_codes(packed: Packed, name: str) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes -8..7 [N, D] and scales [N, groups of 32 inputs].

    Stored four-bit codes are kept where they are symmetric; everything else goes to the nearest code, with the scale
    that loses least.
    """
    if isinstance(packed, Group4) and is_symmetric(packed):
        rows, columns = packed.shape
        scales_NG, _ = scales_and_zeros(packed)
        q_ND = nibbles(packed.codes).reshape(-1, packed.codes.shape[1] * GROUP_COLUMNS)[:rows, :columns]
        return q_ND.astype(np.int8) - np.int8(SYMMETRIC_ZERO), np.ascontiguousarray(scales_NG)
    return nearest_int4(values_of(packed, name))


def is_symmetric(packed: Group4) -> bool:
    """Whether stored codes 0..15 mean -8..7 throughout, which is all that a graph's int4 can hold."""
    scales_NG, zeros_NG = scales_and_zeros(packed)
    return bool((zeros_NG[scales_NG != 0] == SYMMETRIC_ZERO).all())


def scales_and_zeros(packed: Group4) -> tuple[Floats, Floats]:
    """Scales and zero points, [N, groups] each."""
    rows, columns = packed.shape
    groups = -(-columns // GROUP_COLUMNS)
    halves = packed.halves.astype(np.float32).transpose(2, 0, 3, 1).reshape(2, -1, packed.halves.shape[1])
    return halves[0, :rows, :groups], halves[1, :rows, :groups]


def nearest_int4(w_ND: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Nearest codes: of each group the extreme value goes to about -8, the scale with the least squared error wins."""
    parts = [nearest_rows(w_ND[start : start + SLICE_ROWS]) for start in range(0, len(w_ND), SLICE_ROWS)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def nearest_rows(w_ND: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """nearest_int4 of a few rows."""
    rows, columns = w_ND.shape
    groups = -(-columns // GROUP_COLUMNS)
    padded = np.zeros((rows, groups * GROUP_COLUMNS), np.float32)
    padded[:, :columns] = w_ND
    w_NGC = padded.reshape(rows, groups, GROUP_COLUMNS)
    extremes_NG = np.take_along_axis(w_NGC, np.abs(w_NGC).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best_error_NG = np.full((rows, groups), np.inf, np.float32)
    best_scale_NG = np.zeros((rows, groups), np.float32)
    best_q_NGC = np.zeros(w_NGC.shape, np.int8)
    for factor in SCALE_FACTORS:
        scale_NG = (extremes_NG * (factor / np.float32(-8))).astype(np.float32)
        inverse_NG = np.divide(np.float32(1), scale_NG, out=np.zeros_like(scale_NG), where=scale_NG != 0)
        q_NGC = np.clip(np.rint(w_NGC * inverse_NG[..., None]), -8, 7)
        error_NG = np.square(w_NGC - q_NGC * scale_NG[..., None]).sum(axis=-1)
        better = error_NG < best_error_NG
        best_error_NG = np.where(better, error_NG, best_error_NG)
        best_scale_NG = np.where(better, scale_NG, best_scale_NG)
        best_q_NGC[better] = q_NGC[better].astype(np.int8)
    return best_q_NGC.reshape(rows, -1)[:, :columns], best_scale_NG


def int8_codes(packed: Packed) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes -127..127 [N, D] and scales [N]."""
    assert isinstance(packed, Int8), "int8 is read as such"
    rows, columns = packed.shape
    return integer_rows(packed)[:rows, :columns], packed.scales[:rows]


def pack_int4(q: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two codes in a byte, the first in the low bits, in the order of the array; a last odd one alone."""
    flat = (q.reshape(-1) & 15).astype(np.uint8)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    packed: npt.NDArray[np.uint8] = flat[0::2] | (flat[1::2] << np.uint8(4))
    return packed


def transposed(weight: GraphWeight, packed: Packed) -> list[Field]:
    """A matrix as [D, N] with its scales, as MatMul and DequantizeLinear take them."""
    form, name = weight.form, weight.target.name
    if form == "int4":
        q_ND, scales_NG = int4_codes(packed, name)
        scales = Field(".scales", TensorProto.FLOAT, scales_NG.T.shape, scales_NG.T)
        return [Field("", TYPES[form], q_ND.T.shape, pack_int4(q_ND.T)), scales]
    rows = as_rows(weight, packed)
    return [Field("", rows[0].dtype, rows[0].data.T.shape, rows[0].data.T), *rows[1:]]


def as_rows(weight: GraphWeight, packed: Packed) -> list[Field]:
    """A matrix (or vector) as it is read, [N, D] with the scales of its rows; not for int4."""
    form, name = weight.form, weight.target.name
    if form == "int8":
        q_ND, scales_N = int8_codes(packed)
    elif form == "fp8":
        assert isinstance(packed, Fp8), "fp8 is read as such"
        q_ND, scales_N = packed.values, packed.scales  # type: ignore[assignment]
    else:
        values = packed.values if isinstance(packed, Dense) and form == "bf16" else values_of(packed, name)
        data = half(values, name) if form == "f16" else values
        return [Field("", TYPES[form], data.shape, data)]
    return [Field("", TYPES[form], q_ND.shape, q_ND), Field(".scales", TensorProto.FLOAT, scales_N.shape, scales_N)]
