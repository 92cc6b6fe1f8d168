"""How far other weights move a network's answers, measured with one layer of it in memory at a time.

A few texts go through the network as it is, and copies of them beside: each copy meets other weights in one place (or
in all places) and the network's own everywhere else. At the head every copy's distribution over the next token is
compared with the exact one. All weights are read once; the copies are what takes memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path

import numpy as np

from twofold.errors import QuantisationError
from twofold.export.manifest import ExportedGraph
from twofold.layerwise import Activations, LayerRunner
from twofold.loading import Model, open_model
from twofold.ops.interface import Ops
from twofold.ops.logprobs import divergence, log_softmax
from twofold.ops.packed import Floats, Format, Packed
from twofold.quant.groups import Group
from twofold.quant.units import Unit, cut, exact_formats
from twofold.weights.load import load
from twofold.weights.packed_file import PackedFile
from twofold.weights.quantised import Store

ROWS_AT_ONCE = 64
"""Tokens whose logits are held at a time."""
Name = tuple[str, str]
Weights = Mapping[str, Packed]
Vary = Callable[[Unit, Weights], Iterator[tuple[Name, Weights]]]
"""vary(unit, exact weights) gives the copies that meet weights of their own in this unit, one after another."""
Damages = dict[str, dict[Format, float]]
"""Mean KL divergence in nats, by group and by the format that the group alone is rounded to."""
Progress = Callable[[str, int, int], None]


def measure_damages(
    model: Model,
    groups: Sequence[Group],
    texts: Sequence[Sequence[int]],
    ops: Ops,
    progress: Progress | None = None,
) -> Damages:
    """KL(model || model with one group rounded), for every group and format, over every token of the texts.

    Rounding is the packer's own, to the nearest codes: it takes seconds where searching and GPTQ take hours. Products
    with integer weights see int8 activations here as they do later, so what these cost is part of the damage.
    """
    store = store_of(model)

    def vary(unit: Unit, exact: Weights) -> Iterator[tuple[Name, Weights]]:
        for group in (group for group in groups if group.unit == unit):
            for form in (form for form in group.formats if form != "bf16"):
                formats = {target.name: form for target in group.targets}
                yield (group.name, form), {**exact, **load(store, group.targets, formats, ops.packer)}

    found: Damages = {group.name: {"bf16": 0.0} for group in groups}
    measured = compare(model, LayerRunner(model.architecture, ops, texts), vary, progress)
    for group in groups:
        found[group.name] |= {form: measured[group.name, form] for form in group.formats if form != "bf16"}
    check_finite(found)
    return found


def check_finite(damages: Damages) -> None:
    """Raise QuantisationError for a network that gives no probabilities to compare."""
    for name, found in damages.items():
        for form, damage in found.items():
            if not isfinite(damage):
                raise QuantisationError(
                    f"{name} as {form}: the KL divergence is {damage}; the network's own logits or the rounded one's "
                    "overflow. The checkpoint is damaged, or choose another scheme than mixed."
                )


def judge_folder(
    model: Model, folder: Path, texts: Sequence[Sequence[int]], ops: Ops, progress: Progress | None = None
) -> float:
    """Mean KL(model || folder) in nats over every token of the texts; the folder holds the same network quantised."""
    result = open_model(folder)
    store, units = store_of(result), {unit.name: unit for unit in cut(result.targets)}
    formats = result.formats(result.own_dtype or "bf16")

    def vary(unit: Unit, exact: Weights) -> Iterator[tuple[Name, Weights]]:
        del exact  # nothing of it is met
        yield ("folder", ""), load(store, units[unit.name].targets, formats, ops.packer)

    return compare(model, LayerRunner(model.architecture, ops, texts), vary, progress)["folder", ""]


def compare(model: Model, runner: LayerRunner, vary: Vary, progress: Progress | None) -> dict[Name, float]:
    """Run texts and their copies from the embedding to the head; the mean KL divergence of every copy."""
    store, units = store_of(model), cut(model.targets)
    copies = Copies(runner, model.has_tied_head)
    for index, unit in enumerate(units):
        if progress:
            progress(f"measuring {unit.name}", index, len(units))
        weights = load(store, unit.targets, exact_formats(store, unit), runner.ops.packer)
        if index + 1 < len(units):
            copies.advance(unit, weights, vary(unit, weights))
        else:
            return copies.divergences(weights, vary(unit, weights))
    raise AssertionError("a network ends with its head")


def store_of(model: Model) -> Store:
    """The checkpoint of a model that is not packed."""
    assert not isinstance(model.store, PackedFile | ExportedGraph), "what is packed or exported does not come here"
    return model.store


class Copies:
    """The exact residual stream of some texts, and copies of it that have met other weights.

    tables: the embedding each copy has met, where it is the head too.
    """

    def __init__(self, runner: LayerRunner, is_tied: bool) -> None:
        self.runner = runner
        self.is_tied = is_tied
        self.exact: Activations | None = None
        self.streams: dict[Name, Activations] = {}
        self.table: Packed | None = None
        self.tables: dict[Name, Packed] = {}

    def advance(self, unit: Unit, weights: Weights, varied: Iterable[tuple[Name, Weights]]) -> None:
        """Run everything through a unit: copies with weights of their own through those."""
        before = dict(self.streams)
        for name, own in varied:
            self.streams[name] = self.runner.run(unit, own, before.pop(name, self.exact))
            if self.is_tied and "embedding" in own:
                self.tables[name] = own["embedding"]
        for name, stream in before.items():
            self.streams[name] = self.runner.run(unit, weights, stream)
        self.exact = self.runner.run(unit, weights, self.exact)
        if self.is_tied and "embedding" in weights:
            self.table = weights["embedding"]

    def divergences(self, weights: Weights, varied: Iterable[tuple[Name, Weights]]) -> dict[Name, float]:
        """Mean KL divergence of every copy behind the head."""
        assert self.exact is not None, "the head comes last"
        exact = self.with_table(weights, self.table)
        found: dict[Name, float] = {}
        for name, own in varied:
            stream = self.streams.pop(name, self.exact)
            found[name] = self.distances(exact, self.with_table(own, self.tables.pop(name, self.table)), [stream])[0]
        for name, table in self.tables.items():
            found[name] = self.distances(exact, self.with_table(weights, table), [self.streams.pop(name)])[0]
        left = list(self.streams)
        distances = self.distances(exact, exact, [self.streams[name] for name in left])
        return found | dict(zip(left, distances, strict=True))

    def with_table(self, weights: Weights, table: Packed | None) -> Weights:
        """Weights of the head's unit, with the embedding where it is the head."""
        return weights if table is None else {**weights, "head": table}

    def distances(self, exact: Weights, own: Weights, streams: Sequence[Activations]) -> list[float]:
        """Mean KL divergence of each stream under the head `own` from the exact stream under the exact head."""
        assert self.exact is not None, "the head comes last"
        sums = np.zeros(len(streams))
        for text, exact_TD in enumerate(self.exact):
            for start in range(0, len(exact_TD), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                expected_RV = self.logprobs(exact, exact_TD[rows])
                for index, stream in enumerate(streams):
                    found_RV = self.logprobs(own, stream[text][rows])
                    sums[index] += divergence(expected_RV, found_RV).sum(dtype=np.float64)
        return [float(total) for total in sums / sum(len(x_TD) for x_TD in self.exact)]

    def logprobs(self, weights: Weights, x_RD: Floats) -> Floats:
        """Log-probabilities behind the last norm and the head."""
        ops = self.runner.ops
        normed_RD = ops.norm(x_RD, weights["final_norm"], self.runner.architecture.epsilon)
        return log_softmax(np.asarray(ops.download(ops.logits(normed_RD, weights["head"])), np.float32))
