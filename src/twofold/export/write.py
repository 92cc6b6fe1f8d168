"""From an architecture and its checkpoint to model.onnx, model.onnx.data and export.json in a folder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from twofold.export.contrib import HEAD_STEP, Contrib
from twofold.export.files import WeightsFile
from twofold.export.forms import Form, forms
from twofold.export.genai import GenaiInputs
from twofold.export.graph import OPSET, Graph
from twofold.export.inputs import Inputs
from twofold.export.manifest import GRAPH_NAME, TOKENIZER_NAMES, WEIGHTS_NAME, Manifest, digest_of
from twofold.export.ops import Dialect, GraphCache, GraphOps, Sizes
from twofold.export.portable import Portable
from twofold.export.weights import GraphWeight, ReadMatrix, Weights
from twofold.models.network import Architecture

if TYPE_CHECKING:
    from twofold.ops.interface import Ops


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be written. grouped: names of weights that have four-bit codes of their own, which int4 may keep.

    merges_experts: one operator for all experts of a layer, where the target has one; else each stands behind an If.
    """

    target: str
    dtype: Form
    merges_experts: bool = True
    grouped: frozenset[str] = frozenset()


def write_graph(
    architecture: Architecture, names: Collection[str], read: ReadMatrix, order: Order, folder: Path
) -> Manifest:
    """Run the network's forward over an Ops that writes it down; weights are read one matrix at a time.

    `names` are the checkpoint's tensors, `folder` holds config and tokenizer already. Raises QuantisationError for
    weights a form cannot hold, OSError for a disk that is full.
    """
    with WeightsFile(folder / WEIGHTS_NAME) as file:
        graph = Graph(file)
        weights = Weights(graph, read, order.grouped)
        is_portable = order.target == "portable"
        is_packed = not is_portable and architecture.cache_shape.head_size % HEAD_STEP == 0
        kind = GenaiInputs if order.target == "genai" else Inputs
        inputs = kind(graph, architecture.cache_shape, is_packed)
        dialect: Dialect = (
            Portable(graph, weights, inputs)
            if is_portable
            else Contrib(graph, weights, inputs, merges_experts=order.merges_experts)
        )
        run_forward(architecture, names, order, GraphOps(graph, weights, dialect, sizes_of(architecture)), inputs)
        model = graph.model(architecture.name, not is_portable, version("twofold"))
    (folder / GRAPH_NAME).write_bytes(model.SerializeToString())
    kept = [GRAPH_NAME, "config.json", *(name for name in TOKENIZER_NAMES if (folder / name).exists())]
    manifest = Manifest(
        target=order.target,
        dtype=order.dtype,
        opset=OPSET,
        is_packed=is_packed,
        kv_heads=architecture.cache_shape.kv_heads,
        head_size=architecture.cache_shape.head_size,
        chunks=architecture.cache_shape.chunks,
        vocabulary=architecture.vocabulary,
        rounded=tuple(sorted(weights.rounded)),
        twofold=version("twofold"),
        sizes={GRAPH_NAME: (folder / GRAPH_NAME).stat().st_size, WEIGHTS_NAME: file.size_bytes},
        digests={WEIGHTS_NAME: file.sha256, **{name: digest_of(folder / name) for name in kept}},
    )
    manifest.write(folder)
    return manifest


def run_forward(
    architecture: Architecture, names: Collection[str], order: Order, ops: GraphOps, inputs: Inputs
) -> None:
    """The network's own forward, and the outputs that belong to no layer."""
    chosen = forms(order.dtype)
    table = {target.name: GraphWeight(target, chosen[target.role]) for target in architecture.targets(names)}
    cache = [GraphCache(index, chunk) for index, chunk in enumerate(architecture.cache_shape.chunks)]
    logits = architecture.bind(table)(cast("Ops", ops), inputs.batch(), list(cache))
    inputs.finish(logits, architecture.vocabulary)


def sizes_of(architecture: Architecture) -> Sizes:
    """Heads of a network."""
    shape = architecture.cache_shape
    return Sizes(architecture.config.heads, shape.kv_heads, shape.head_size)
