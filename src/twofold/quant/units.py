"""A network cut into the pieces that are quantised one after another: embedding, each decoder layer, head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twofold.ops.codes import Codes, store
from twofold.ops.formats import Formats
from twofold.ops.packed import Dense, Floats, Format, Packed, Packer, matrix, place, size_bytes
from twofold.ops.types import Target
from twofold.quant.calibrate import Inputs, Recorder
from twofold.quant.grids import Rows
from twofold.quant.quantise import Kind, Record, quantise
from twofold.weights.quantised import Store


@dataclass(frozen=True)
class Unit:
    """Targets that are quantised together; `layer` is the index of a decoder layer, None for the others."""

    name: str
    layer: int | None
    targets: tuple[Target, ...]


def cut(targets: Sequence[Target]) -> list[Unit]:
    """Units in the order in which the network runs them."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        parts = target.name.split(".")
        name = f"layer {parts[1]}" if parts[0] == "layers" else "embedding" if target.role == "embedding" else "head"
        groups.setdefault(name, []).append(target)
    return [
        Unit(name, int(name.removeprefix("layer ")) if name.startswith("layer ") else None, tuple(members))
        for name, members in groups.items()
    ]


def exact_formats(store: Store, unit: Unit, changes: bool = False) -> Formats:
    """Formats that hold the checkpoint's own values: bfloat16 where they are that, else float32.

    `changes`: the values will be changed before they are quantised, and fit no bfloat16 then.
    """
    result: dict[str, Format] = {}
    for target in unit.targets:
        dtypes = {store.dtype(source.name) for parts in target.sources for source in parts}
        is_wide = target.role in ("norm", "router") or changes
        result[target.name] = "bf16" if dtypes == {"BF16"} and not is_wide else "f32"
    return result


@dataclass(frozen=True)
class Matrix:
    """One matrix of a target, quantised."""

    target: Target
    index: int
    codes: Rows
    record: Record


def quantise_unit(
    unit: Unit, kinds: Mapping[str, Kind], weights: Mapping[str, Packed], inputs: InputsOf | None
) -> Iterator[Matrix]:
    """Quantise the matrices of a unit, one at a time; those that stay as they are do not appear."""
    for target in unit.targets:
        form = kind_of(kinds, target)
        if form in ("f32", "bf16"):
            continue
        weight = weights[target.name]
        assert isinstance(weight, Dense), "weights to quantise are loaded as they are"
        for index in range(len(target.sources)):
            values_ND = matrix_of(weight, index)
            name = target.name if len(target.shape) == 2 else f"{target.name}.{index}"
            found = None if inputs is None else inputs.of(target, index)
            codes, record = quantise(values_ND, form, found, name)
            yield Matrix(target, index, codes, record)


def matrix_of(weight: Dense, index: int) -> Floats:
    """Matrix `index` of a weight, in float32."""
    values = weight.values[index] if weight.values.ndim > 2 else weight.values
    return np.ascontiguousarray(values, np.float32)


def kind_of(kinds: Mapping[str, Kind], target: Target) -> Kind:
    """What a target becomes, by its name or its role."""
    return kinds[target.name] if target.name in kinds else kinds[target.role]


class InputsOf:
    """The calibration inputs of every matrix of a layer, from a Recorder that has watched it run."""

    def __init__(self, recorder: Recorder, weights: Mapping[str, Packed]) -> None:
        self.recorder = recorder
        self.weights = weights
        self._downs: dict[int, Inputs | None] = {}

    def of(self, target: Target, index: int) -> Inputs | None:
        """Inputs of one matrix; None when no token reached it."""
        if target.role != "expert":
            return self.recorder.inputs(target.name)
        if target.name.endswith("experts_down"):
            return self._downs.pop(index)
        gate_up = self.weights[target.name]
        assert isinstance(gate_up, Dense)
        found, self._downs[index] = self.recorder.expert_inputs(index, Dense(gate_up.values[index]))
        return found


def pack_unit(
    unit: Unit, weights: Mapping[str, Packed], matrices: Sequence[Matrix], packer: Packer
) -> dict[str, Packed]:
    """The unit's weights as the network will run them: codes as packed weights, the rest as loaded."""
    result: dict[str, Packed] = dict(weights)
    for target in unit.targets:
        mine = [item for item in matrices if item.target is target]
        if mine:
            coded = [item.codes if isinstance(item.codes, Codes) else item.codes.coded() for item in mine]
            form = coded[0].format if coded[0] is not None and None not in coded else "bf16"
            weight = place(form, target.shape, packer.arena(size_bytes(form, target.shape)))
            for item, codes in zip(mine, coded, strict=True):
                into = matrix(weight, item.index) if len(target.shape) > 2 else weight
                if codes is None or form == "bf16":
                    packer.encode(item.codes.values(), into, 0)
                else:
                    store(codes, into, 0)
            result[target.name] = weight
    return result
