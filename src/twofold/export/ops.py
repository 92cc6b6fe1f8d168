"""An Ops whose methods append nodes: running a network's `forward` over it writes the network down.

Tensors are names of values. Tokens are flat, as in every other backend: T = batch * length. What targets do differently
(products, attention, experts) is asked of a dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from onnx import TensorProto

from twofold.export.graph import Graph
from twofold.export.weights import GraphWeight, Weights
from twofold.ops import rope
from twofold.ops.types import Batch, Pages, Rope, Temperature

FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class GraphCache:
    """A layer's past: its number and its attention chunk (None: the whole context)."""

    index: int
    chunk: int | None


@dataclass(frozen=True)
class Sizes:
    """Heads of the network."""

    heads: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of one attention, [T, heads, K] each."""

    q: str
    k: str
    v: str
    sizes: Sizes
    cache: GraphCache


@dataclass(frozen=True)
class Routed:
    """What experts are asked: inputs [T, D], chosen experts [T, A] and their gates [T, A]; `active` is A."""

    x: str
    chosen: str
    gates: str
    active: int


class Dialect(Protocol):
    """How a target writes what there is more than one way to write."""

    def linear(self, x_TD: str, weight: GraphWeight, expert: int | None = None) -> str:
        """x @ weight^T; of a stack the matrix of one expert."""
        ...

    def norm(self, x: str, scale: str, epsilon: float) -> str:
        """x / sqrt(mean(x^2) + epsilon) * scale over the last axis."""
        ...

    def attend(self, heads: Heads) -> str:
        """Attention over past and new keys and values, [T, heads * K]; declares the layer's inputs and outputs."""
        ...

    def experts(self, routed: Routed, gate_up: GraphWeight, down: GraphWeight) -> str:
        """See ops.interface.Ops.experts."""
        ...


class GraphOps:
    """See ops.interface.Ops for what each op means; here it appends nodes and returns a name."""

    def __init__(self, graph: Graph, weights: Weights, dialect: Dialect, sizes: Sizes) -> None:
        self.graph = graph
        self.weights = weights
        self.dialect = dialect
        self.sizes = sizes
        self._active: dict[str, int] = {}
        self._factors: dict[Temperature, str] = {}

    def embed(self, table_VD: GraphWeight, tokens_T: str) -> str:
        """Rows of the table, in float32."""
        names = self.weights.plain(table_VD)
        rows_TD = self.graph.node("Gather", names[0], tokens_T, axis=0)
        if table_VD.form != "f32":
            rows_TD = self.graph.node("Cast", rows_TD, to=FLOAT)
        if len(names) == 1:
            return rows_TD
        scales_T = self.graph.node("Gather", names[1], tokens_T, axis=0)
        return self.graph.node("Mul", rows_TD, self.column(scales_T))

    def column(self, x_T: str) -> str:
        """[T] as [T, 1]."""
        return self.graph.node("Unsqueeze", x_T, self.graph.integers(1))

    def angles(self, positions_T: str, setting: Rope) -> tuple[str, str]:
        """Cosines and sines [T, 1, K/2]: to RotaryEmbedding every token is a sequence of one."""
        places = self.graph.node("Cast", positions_T, to=FLOAT)
        places = self.graph.node("Unsqueeze", places, self.graph.integers(1, 2))
        turned = self.graph.node("Mul", places, self.graph.constant(rope.frequencies(setting)[None, None]))
        return self.graph.node("Cos", turned), self.graph.node("Sin", turned)

    def norm(self, x_TD: str, weight_D: GraphWeight, epsilon: float) -> str:
        """RMS norm with a weight."""
        return self.dialect.norm(x_TD, self.weights.plain(weight_D)[0], epsilon)

    def linear(self, x_TD: str, weight_ND: GraphWeight) -> str:
        """As the dialect multiplies."""
        return self.dialect.linear(x_TD, weight_ND)

    def logits(self, x_RD: str, head_VD: GraphWeight) -> str:
        """linear; a tied head of floats is the embedding's own tensor."""
        if head_VD.target.role == "head" or head_VD.form == "int8":
            return self.dialect.linear(x_RD, head_VD)
        names = self.weights.plain(head_VD)
        table_VD = names[0] if head_VD.form == "f32" else self.graph.node("Cast", names[0], to=FLOAT)
        return self.graph.node("Gemm", x_RD, table_VD, transB=1)

    def split_heads(self, qkv_TN: str, heads: int, kv_heads: int) -> tuple[str, str, str]:
        """Cut the columns into q, k and v heads."""
        all_heads = self.graph.node("Reshape", qkv_TN, self.graph.integers(0, heads + 2 * kv_heads, -1))
        sizes = self.graph.integers(heads, kv_heads, kv_heads)
        q_THK, k_TGK, v_TGK = self.graph.nodes("Split", 3, all_heads, sizes, axis=1)
        return q_THK, k_TGK, v_TGK

    def rotate(self, x_THK: str, angles: tuple[str, str], setting: Rope) -> str:
        """RotaryEmbedding; with every token a sequence of its own, heads need not be moved."""
        apart = self.graph.node("Unsqueeze", x_THK, self.graph.integers(2))
        turned = self.graph.node("RotaryEmbedding", apart, *angles, interleaved=int(setting.interleaved))
        return self.graph.node("Squeeze", turned, self.graph.integers(2))

    def unit_norm(self, x_THK: str, epsilon: float) -> str:
        """RMS norm of every head with a weight of ones."""
        return self.dialect.norm(x_THK, self.graph.constant(np.ones(self.sizes.head_size, np.float32)), epsilon)

    def temperature(self, q_THK: str, positions_T: str, setting: Temperature) -> str:
        """1 + scale * ln(1 + floor((p + 1) / floor)), computed once for all layers."""
        if setting not in self._factors:
            self._factors[setting] = self.temperature_factors(positions_T, setting)
        return self.graph.node("Mul", q_THK, self._factors[setting])

    def temperature_factors(self, positions_T: str, setting: Temperature) -> str:
        """The factor of every token, [T, 1, 1]."""
        graph = self.graph
        one = graph.constant(np.float32(1))
        places = graph.node("Add", graph.node("Cast", positions_T, to=FLOAT), one)
        steps = graph.node("Floor", graph.node("Div", places, graph.constant(np.float32(setting.floor))))
        grown = graph.node(
            "Mul", graph.node("Log", graph.node("Add", steps, one)), graph.constant(np.float32(setting.scale))
        )
        return graph.node("Unsqueeze", graph.node("Add", grown, one), graph.integers(1, 2))

    def attend(
        self, q_THK: str, k_TGK: str, v_TGK: str, cache: GraphCache, batch: Batch, pages: Pages, chunk: int | None
    ) -> str:
        """As the dialect attends; new keys and values are outputs of the graph as well."""
        assert cache.chunk == chunk, "a layer's cache is made for its chunk"
        shape: Sequence[int | str] = ["tokens", self.sizes.kv_heads, self.sizes.head_size]
        for value, kind in ((k_TGK, "key"), (v_TGK, "value")):
            self.graph.output(value, f"new_key_values.{cache.index}.{kind}", FLOAT, shape)
        return self.dialect.attend(Heads(q_THK, k_TGK, v_TGK, self.sizes, cache))

    def add(self, x_TD: str, y_TD: str) -> str:
        """x + y."""
        return self.graph.node("Add", x_TD, y_TD)

    def swiglu(self, gate_up_TN: str) -> str:
        """silu(first half) * second half."""
        return swiglu(self.graph, gate_up_TN)

    def route(self, x_TD: str, router_ED: GraphWeight, active: int) -> tuple[str, str]:
        """TopK takes the lower index on ties, as the reference does."""
        logits_TE = self.dialect.linear(x_TD, router_ED)
        best_TA, chosen_TA = self.graph.nodes("TopK", 2, logits_TE, self.graph.integers(active), axis=-1)
        self._active[chosen_TA] = active
        return chosen_TA, self.graph.node("Sigmoid", best_TA)

    def experts(
        self, x_TD: str, experts_TA: str, gates_TA: str, gate_up_END: GraphWeight, down_EDF: GraphWeight
    ) -> str:
        """As the dialect computes them."""
        return self.dialect.experts(Routed(x_TD, experts_TA, gates_TA, self._active[experts_TA]), gate_up_END, down_EDF)

    def take(self, x_TD: str, rows_R: str) -> str:
        """The named rows."""
        return self.graph.node("Gather", x_TD, rows_R, axis=0)


def swiglu(graph: Graph, gate_up_TN: str) -> str:
    """silu(first half) * second half."""
    gate_TF, up_TF = graph.nodes("Split", 2, gate_up_TN, axis=-1, num_outputs=2)
    return graph.node("Mul", graph.node("Mul", gate_TF, graph.node("Sigmoid", gate_TF)), up_TF)
