"""Whether an exported folder computes what its model does: files, operators, logits and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from twofold.demo import heldout_file
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.engine.request import SamplingParams
from twofold.errors import SettingsError
from twofold.export.forms import Form, forms
from twofold.export.inspect import Contents, inspect
from twofold.export.manifest import GRAPH_NAME, WEIGHTS_NAME, ExportedGraph, check_digests
from twofold.exporting import grouped, reader
from twofold.graphs import check_graph
from twofold.loading import WORKING_BYTES, Model, open_model
from twofold.models.network import Architecture, Forward
from twofold.ops.logprobs import divergence, log_softmax
from twofold.ops.packed import Dense, Floats
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import Target
from twofold.weights.memory import available_memory, check_memory
from twofold.weights.packed_file import PackedFile

EXACT = 1e-4
"""Most that logits may differ, relative to the largest: both sides compute in float32, in different orders."""
ROUNDED = 0.1
"""The same where products take activations as int8, as root mean square relative to that of the logits."""
LONGEST = 1024
PIECE = 37
ANSWER = 16
SHARES = (0.01, 0.1, 0.2, 0.7)
"""Lengths of the prompts of a batch, relative to the text."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison: how far it may be off, and how far it was."""

    name: str
    found: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it was within."""
        return self.found <= self.allowed


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found. chunks: how many boundaries of attention chunks the longest text crosses.

    kl, agreement: of the graph against the model in float32 (nats per token; same best token), over `positions` tokens.
    """

    contents: Contents
    graph_bytes: int
    weight_bytes: int
    chunks: int
    checks: tuple[Check, ...]
    kl: float
    agreement: float
    positions: int

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)


class Side(Protocol):
    """Something that computes logits and answers."""

    def score(self, ids: Sequence[int], step: int) -> tuple[Sequence[int], Floats]:
        """Logits [n, V] with `step` tokens read at a time, and the n tokens they come after (their indices)."""
        ...

    def answers(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Greedy answers of `count` tokens to prompts that run together."""
        ...


class EngineSide:
    """See Side."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def score(self, ids: Sequence[int], step: int) -> tuple[Sequence[int], Floats]:
        """After every token."""
        self.engine.limits = replace(self.engine.limits, step_tokens=step)
        return range(len(ids)), np.concatenate(list(self.engine.score(ids)))

    def answers(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """See Side."""
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        found: dict[int, list[int]] = {self.engine.add(prompt, params).id: [] for prompt in prompts}
        while not self.engine.is_idle:
            for event in self.engine.step():
                found[event.request_id].append(event.drawn.token)
        return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The graph, the exported weights on the reference, and the model's own in float32."""

    graph: Side
    exported: Side
    original: Side


def verify_export(folder: Path, against: str | Path, device: str | None = None, threads: int | None = None) -> Verdict:
    """Compare an exported folder with the model it was made of, on text that crosses chunk boundaries where it can.

    The reference computes with what the exported weights stand for, so nothing but the order of sums may differ. It
    holds the weights twice, in float32: for small models. Raises CheckpointError for damaged files, SettingsError
    when `against` is no checkpoint, OutOfMemory when it does not fit.
    """
    graph = ExportedGraph.open(folder)
    check_digests(folder, graph.manifest)
    contents = inspect(folder)
    model = open_model(against)
    check_graph(graph, model.architecture)
    ids = text_of(model)
    sides = build_sides(graph, model, len(ids), (device, threads))
    checks = list(compare(graph, sides, ids))
    if graph.manifest.target == "portable":
        checks.append(Check(name="operators outside the standard set", found=contents.foreign, allowed=0))
    places, wanted = sides.graph.score(ids, PIECE)
    exact = sides.original.score(ids, len(ids))[1][places]
    return Verdict(
        contents=contents,
        graph_bytes=graph.manifest.sizes[GRAPH_NAME],
        weight_bytes=graph.manifest.sizes[WEIGHTS_NAME],
        chunks=(len(ids) - 1) // (model.architecture.cache_shape.chunk or len(ids)),
        checks=tuple(checks),
        kl=max(0.0, float(divergence(log_softmax(exact), log_softmax(wanted)).mean())),
        agreement=float((exact.argmax(axis=-1) == wanted.argmax(axis=-1)).mean()),
        positions=len(places),
    )


def text_of(model: Model) -> list[int]:
    """Tokens of the demo model's held-out text: a chunk and a half and a piece more, where that is feasible."""
    architecture = model.architecture
    chunk = architecture.cache_shape.chunk or 64
    count = min(chunk * 3 // 2 + PIECE, LONGEST, architecture.context - ANSWER)
    return model.files.tokenizer().encode(heldout_file().read_text()[: 16 * count], bos=True)[:count]


def build_sides(graph: ExportedGraph, model: Model, longest: int, runtime: tuple[str | None, int | None]) -> Sides:
    """The three engines; `runtime` is the graph's execution provider and threads."""
    from twofold.export.forward import GraphForward
    from twofold.export.masked import MaskedSide
    from twofold.export.session import EXACT as EXACT_PRODUCTS
    from twofold.export.session import open_session
    from twofold.export.weights import GraphWeight, read_as, stands_for

    if isinstance(model.store, PackedFile | ExportedGraph):
        raise SettingsError(f"{model.folder} is no checkpoint; give the one that {graph.folder} was made of")
    architecture = model.architecture
    check_memory(2 * model.footprint("f32").total_bytes + WORKING_BYTES, available_memory(), [])
    read, kept = reader(model, model.store, None), grouped(model)

    def values(target: Target, form: Form) -> Dense:
        weight = GraphWeight(target, form)
        experts = range(target.shape[0]) if len(target.shape) > 2 else (None,)
        found = [stands_for(weight, read(target, expert, read_as(weight, kept))) for expert in experts]
        return Dense(np.stack(found) if len(target.shape) > 2 else found[0])

    chosen = forms(graph.manifest.dtype)
    exported = {target.name: values(target, chosen[target.role]) for target in model.targets}
    original = {target.name: values(target, "f32") for target in model.targets}
    build = partial(build_engine, architecture, longest)
    session = open_session(graph, *runtime, EXACT_PRODUCTS)
    return Sides(
        graph=MaskedSide(session) if graph.manifest.is_masked else build(cast(Forward, GraphForward(session))),
        exported=build(architecture.bind(exported)),
        original=build(architecture.bind(original)),
    )


def build_engine(architecture: Architecture, longest: int, forward: Forward) -> EngineSide:
    """An engine for a handful of sequences, with its cache in float32."""
    context = longest + ANSWER
    limits = EngineLimits(
        context=context, step_tokens=longest, max_sequences=len(SHARES), vocabulary=architecture.vocabulary
    )
    shape = architecture.cache_shape
    layout = plan_layout(shape.chunk, len(SHARES) * context, longest, len(SHARES))
    return EngineSide(Engine(ReferenceOps(), forward, shape, layout, limits))


def compare(graph: ExportedGraph, sides: Sides, ids: Sequence[int]) -> Iterator[Check]:
    """The text as a whole, in pieces and token by token, and answers to prompts of unequal length in one batch."""
    is_rounded = graph.manifest.target != "portable" and graph.manifest.dtype in ("int4", "int8")
    error, allowed = (mean_error, ROUNDED) if is_rounded else (largest_error, EXACT)
    _, expected = sides.exported.score(ids, len(ids))
    for name, step, count in (("whole", len(ids), len(ids)), ("in pieces", PIECE, len(ids)), ("one by one", 1, PIECE)):
        places, found = sides.graph.score(ids[:count], step)
        name = f"logits, {min(count, len(ids))} tokens {name}"
        yield Check(name=name, found=error(found, expected[places]), allowed=allowed)
    if not is_rounded:
        prompts = [ids[: max(1, int(len(ids) * share))] for share in SHARES]
        pairs = zip(sides.graph.answers(prompts, ANSWER), sides.exported.answers(prompts, ANSWER), strict=True)
        name = f"of {len(SHARES)} greedy answers to unequal prompts, {ANSWER} tokens each, that differ"
        yield Check(name=name, found=sum(one != other for one, other in pairs), allowed=0)


def largest_error(found: Floats, expected: Floats) -> float:
    """Largest difference, relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def mean_error(found: Floats, expected: Floats) -> float:
    """Root mean square of the differences, relative to that of the values."""
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))
