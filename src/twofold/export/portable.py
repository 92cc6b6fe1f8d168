"""The dialect of standard operators only (opset 23), which TensorRT, OpenVINO and MIGraphX parse too.

Every expert stands behind an If of its own, with weights of its own inside: what no token chose is neither computed
nor read, and no weight is copied, as a Gather or a Loop over the stack would do for every step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from twofold.export.graph import Graph
from twofold.export.inputs import Inputs
from twofold.export.ops import FLOAT, Heads, Routed, swiglu
from twofold.export.weights import GraphWeight, Weights
from twofold.ops.packed import GROUP_COLUMNS

INT64 = TensorProto.INT64
Linear = Callable[[str, GraphWeight, int | None], str]
"""x @ weight^T, or with the matrix of one expert of a stack."""


class Portable:
    """See ops.Dialect."""

    def __init__(self, graph: Graph, weights: Weights, inputs: Inputs) -> None:
        self.graph = graph
        self.weights = weights
        self.inputs = inputs
        self._masks: dict[int | None, str] = {}

    def linear(self, x_TD: str, weight: GraphWeight, expert: int | None = None) -> str:
        """MatMul with the weight in float32: runtimes fold the cast, or fuse the dequantisation into the product."""
        names = self.weights.turned(weight, expert)
        if weight.form == "int4":
            matrix_DN = self.graph.node("DequantizeLinear", *names, axis=0, block_size=GROUP_COLUMNS)
        elif len(names) > 1:
            matrix_DN = self.graph.node("DequantizeLinear", *names, axis=1)
        else:
            matrix_DN = names[0] if weight.form == "f32" else self.graph.node("Cast", names[0], to=FLOAT)
        return self.graph.node("MatMul", x_TD, matrix_DN)

    def norm(self, x: str, scale: str, epsilon: float) -> str:
        """RMSNormalization."""
        return self.graph.node("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)

    def attend(self, heads: Heads) -> str:
        """Attention with a mask made of positions; a local layer's present begins where its next token's chunk does."""
        graph, sizes, cache = self.graph, heads.sizes, heads.cache
        past = self.inputs.past(cache.index, cache.chunk)
        rows = [
            graph.node("Reshape", value, self.inputs.shaped(count * sizes.head_size))
            for value, count in ((heads.q, sizes.heads), (heads.k, sizes.kv_heads), (heads.v, sizes.kv_heads))
        ]
        attended, *present = graph.nodes(
            "Attention", 3, *rows, self.mask(cache.chunk), *past, q_num_heads=sizes.heads, kv_num_heads=sizes.kv_heads
        )
        self.inputs.present(cache.index, cache.chunk, present)
        return graph.node("Reshape", attended, graph.integers(-1, sizes.heads * sizes.head_size))

    def mask(self, chunk: int | None) -> str:
        """Which keys each query sees, bool [B, 1, L, S], the same for all layers of a kind.

        A query of padding (position -1) sees padding, so that no row of scores is empty.
        """
        if chunk not in self._masks:
            graph = self.graph
            k = graph.node("Unsqueeze", self.inputs.key_positions(chunk), graph.integers(1, 2))
            q = graph.node("Unsqueeze", self.inputs.positions, graph.integers(1, 3))
            zero = graph.constant(np.int64(0))
            real = graph.node("Or", graph.node("GreaterOrEqual", k, zero), graph.node("Less", q, zero))
            seen = graph.node("And", graph.node("LessOrEqual", k, q), real)
            if chunk is not None:
                same = graph.node("Equal", self.inputs.chunk_of(k, chunk), self.inputs.chunk_of(q, chunk))
                seen = graph.node("And", seen, same)
            self._masks[chunk] = seen
        return self._masks[chunk]

    def experts(self, routed: Routed, gate_up: GraphWeight, down: GraphWeight, linear: Linear | None = None) -> str:
        """Every expert on the pairs (token, slot) that chose it; the results go back to their pairs and are added.

        linear: another dialect's product.
        """
        graph, linear = self.graph, linear or self.linear
        count, width = gate_up.shape[0], down.shape[1]
        pairs = graph.node("Reshape", routed.chosen, graph.integers(-1))
        gates = graph.node("Reshape", routed.gates, graph.integers(-1, 1))
        slots = graph.constant(np.int64(routed.active))
        hits_EP = graph.node("Equal", graph.constant(np.arange(count, dtype=np.int64)[:, None]), pairs)
        used = graph.node("ReduceMax", graph.node("Cast", hits_EP, to=FLOAT), graph.integers(1), keepdims=0)
        used_E = graph.node("Cast", used, to=TensorProto.BOOL)
        found, places, zero = [], [], graph.integers(0)
        for expert in range(count):
            index = graph.constant(np.int64(expert))
            with graph.branch() as then:
                place = graph.node("NonZero", graph.node("Gather", hits_EP, index, axis=0))
                place = graph.node("Squeeze", place, zero)
                x = graph.node("Gather", routed.x, graph.node("Div", place, slots), axis=0)
                x = graph.node("Mul", x, graph.node("Gather", gates, place, axis=0))
                hidden = swiglu(graph, linear(x, gate_up, expert))
                then.outputs = outputs(linear(hidden, down, expert), place, width)
            with graph.branch() as otherwise:
                none, nowhere = (graph.node("Slice", value, zero, zero, zero) for value in (routed.x, pairs))
                otherwise.outputs = outputs(none, nowhere, width)  # constants without rows have no rank for OpenVINO
            y, place = graph.choose(graph.node("Gather", used_E, index), then, otherwise)
            found.append(y)
            places.append(graph.node("Unsqueeze", place, graph.integers(1)))
        return self.join(found, places, routed, width)

    def join(self, found: list[str], places: list[str], routed: Routed, width: int) -> str:
        """Rows of all experts put where they belong, and a token's slots added in their order."""
        graph = self.graph
        rows_PD, places_P1 = graph.node("Concat", *found, axis=0), graph.node("Concat", *places, axis=0)
        empty = graph.node("Expand", graph.constant(np.float32(0)), graph.node("Shape", rows_PD))
        ordered = graph.node("ScatterND", empty, places_P1, rows_PD)
        shape = graph.node("Concat", graph.node("Shape", routed.chosen), graph.integers(width), axis=0)
        by_slot = graph.node("Reshape", ordered, shape)
        return graph.node("ReduceSum", by_slot, graph.integers(1), keepdims=0)


def outputs(rows: str, places: str, width: int) -> list[tuple[str, int, list[int | str | None]]]:
    """What a branch gives: rows of results, and the pairs they belong to."""
    return [(rows, FLOAT, [None, width]), (places, INT64, [None])]
