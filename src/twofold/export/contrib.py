"""The dialect of ONNX Runtime's own operators (com.microsoft), where they compute exactly this network.

MatMulNBits for four and eight bits, GroupQueryAttention, QMoE for routed experts; what these cannot hold is written as
in the portable dialect. Of a batch each sequence's past lies at the beginning of its slots, new tokens behind it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from twofold.export.graph import CONTRIB, Graph
from twofold.export.inputs import Inputs
from twofold.export.ops import FLOAT, Heads, Routed
from twofold.export.portable import Portable
from twofold.export.weights import Field, GraphWeight, Weights, int4_codes, int8_codes
from twofold.ops.packed import GROUP_COLUMNS, AnyArray, Floats, Packed, padded

INT32, UINT8 = TensorProto.INT32, TensorProto.UINT8
FAST, EXACT = 4, 1
"""accuracy_level of MatMulNBits: activations in int8, or in float32."""
HEAD_STEP = 8
"""GroupQueryAttention takes heads of a multiple of this size; others are written with the standard operator."""
UNSEEN = np.float32(-1e30)
"""Added to scores of keys that are not seen: finite, so that a row that sees nothing gives numbers."""
CODE_BITS = {"int4": 4, "int8": 8}


class Contrib:
    """See ops.Dialect."""

    def __init__(self, graph: Graph, weights: Weights, inputs: Inputs, *, merges_experts: bool) -> None:
        self.merges_experts = merges_experts
        self.graph = graph
        self.weights = weights
        self.inputs = inputs
        self.portable = Portable(graph, weights, inputs)
        self._lengths: dict[int | None, tuple[str, str]] = {}
        self._biases: dict[int, str] = {}

    def linear(self, x_TD: str, weight: GraphWeight, expert: int | None = None) -> str:
        """MatMulNBits with codes in blocks of 32 inputs; floats as in the portable dialect."""
        if weight.form not in CODE_BITS:
            return self.portable.linear(x_TD, weight, expert)
        rows, columns = weight.shape[-2:]
        name = f"{weight.target.name}.blocks" if expert is None else f"{weight.target.name}.{expert}"
        names = self.weights.place(name, None, (blocked(weight, self.weights.matrix(weight, expert)) for _ in range(1)))
        bits = CODE_BITS[weight.form]
        sizes = {"K": columns, "N": rows, "bits": bits, "block_size": GROUP_COLUMNS, "accuracy_level": FAST}
        return self.graph.node("MatMulNBits", x_TD, *names, domain=CONTRIB, **sizes)

    def norm(self, x: str, scale: str, epsilon: float) -> str:
        """The runtime has a kernel for the standard operator."""
        return self.portable.norm(x, scale, epsilon)

    def attend(self, heads: Heads) -> str:
        """GroupQueryAttention, causal by itself; the chunks of local layers are a bias on the scores."""
        if not self.inputs.is_packed:
            return self.portable.attend(heads)
        graph, sizes, cache = self.graph, heads.sizes, heads.cache
        past = self.inputs.past(cache.index, cache.chunk)
        rows = [
            graph.node("Reshape", value, self.inputs.shaped(count * sizes.head_size))
            for value, count in ((heads.q, sizes.heads), (heads.k, sizes.kv_heads), (heads.v, sizes.kv_heads))
        ]
        bias = [] if cache.chunk is None else ["", "", "", self.bias(cache.chunk)]
        counts = {"num_heads": sizes.heads, "kv_num_heads": sizes.kv_heads}
        attended, *present = graph.nodes(
            "GroupQueryAttention", 3, *rows, *past, *self.lengths(cache.chunk), *bias, domain=CONTRIB, **counts
        )
        self.inputs.present(cache.index, cache.chunk, present)
        return graph.node("Reshape", attended, graph.integers(-1, sizes.heads * sizes.head_size))

    def lengths(self, chunk: int | None) -> tuple[str, str]:
        """The last slot of each sequence [B], and how many slots there are; int32."""
        if chunk not in self._lengths:
            graph, keys = self.graph, self.inputs.key_positions(chunk)
            last = graph.node("Sub", self.inputs.count(keys), graph.constant(np.int64(1)))
            slots = graph.node("Gather", graph.node("Shape", keys), graph.constant(np.int64(1)))
            self._lengths[chunk] = graph.node("Cast", last, to=INT32), graph.node("Cast", slots, to=INT32)
        return self._lengths[chunk]

    def bias(self, chunk: int) -> str:
        """Zero where key and query are in one chunk, [B, 1, L, S]."""
        if chunk not in self._biases:
            graph, inputs = self.graph, self.inputs
            k = graph.node("Unsqueeze", inputs.key_positions(chunk), graph.integers(1, 2))
            q = graph.node("Unsqueeze", inputs.positions, graph.integers(1, 3))
            same = graph.node("Equal", inputs.chunk_of(k, chunk), inputs.chunk_of(q, chunk))
            zero, unseen = graph.constant(np.float32(0)), graph.constant(UNSEEN)
            self._biases[chunk] = graph.node("Where", same, zero, unseen)
        return self._biases[chunk]

    def experts(self, routed: Routed, gate_up: GraphWeight, down: GraphWeight) -> str:
        """QMoE for the experts of each slot, with the gate on its input; other forms, and experts that are to stay
        apart, as in the portable dialect with its own products.

        Its own routing only finds again what was chosen: the scores are one for the chosen expert, zero for others.
        """
        columns = (gate_up.shape[-1], down.shape[-1])
        if not self.merges_experts or gate_up.form not in CODE_BITS or any(size % GROUP_COLUMNS for size in columns):
            return self.portable.experts(routed, gate_up, down, self.linear)
        graph = self.graph
        names = [*self.stacked(gate_up), "", *self.stacked(down)]
        bits = CODE_BITS[gate_up.form]
        settings = {"expert_weight_bits": bits, "k": 1, "normalize_routing_weights": 1}
        settings |= {"block_size": GROUP_COLUMNS} if bits == 4 else {}
        activation = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
        total = ""
        for slot in range(routed.active):
            at = graph.integers(slot)
            chosen_T1, gates_T1 = (graph.node("Gather", x, at, axis=1) for x in (routed.chosen, routed.gates))
            every = graph.constant(np.arange(gate_up.shape[0], dtype=np.int64)[None])
            scores = graph.node("Cast", graph.node("Equal", chosen_T1, every), to=FLOAT)
            scaled = graph.node("Mul", routed.x, gates_T1)
            y_TD = graph.node("QMoE", scaled, scores, *names, domain=CONTRIB, **settings, **activation)
            total = graph.node("Add", total, y_TD) if total else y_TD
        return total

    def stacked(self, weight: GraphWeight) -> list[str]:
        """All experts of a weight as QMoE takes them."""
        matrices = (rows_of_codes(weight, self.weights.matrix(weight, expert)) for expert in range(weight.shape[0]))
        return self.weights.place(weight.target.name, weight.shape[0], matrices)


def codes_of(weight: GraphWeight, packed: Packed) -> tuple[AnyArray, Floats]:
    """Codes counted from zero, uint8 [N, D], and their scales: [N, groups] for int4, [N, 1] for int8."""
    if weight.form == "int4":
        q_ND, scales = int4_codes(packed, weight.target.name)
        return (q_ND + np.int8(8)).astype(np.uint8), scales
    q_ND, scales_N = int8_codes(packed)
    return (q_ND.astype(np.int16) + 128).astype(np.uint8), scales_N[:, None]


def nibbled(codes: AnyArray) -> AnyArray:
    """Two codes of the last axis in a byte, the first in the low bits."""
    result: AnyArray = codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))
    return result


def blocked(weight: GraphWeight, packed: Packed) -> list[Field]:
    """A matrix as MatMulNBits takes it: codes [N, blocks, bytes of a block], a scale for every block."""
    codes_ND, scales = codes_of(weight, packed)
    rows, columns = codes_ND.shape
    blocks = padded(columns, GROUP_COLUMNS) // GROUP_COLUMNS
    zero = 1 << (CODE_BITS[weight.form] - 1)
    whole = np.full((rows, blocks * GROUP_COLUMNS), zero, np.uint8)
    whole[:, :columns] = codes_ND
    data = whole.reshape(rows, blocks, GROUP_COLUMNS)
    data = nibbled(data) if weight.form == "int4" else data
    every = np.ascontiguousarray(np.broadcast_to(scales, (rows, blocks)))
    return [Field("", UINT8, data.shape, data), Field(".scales", FLOAT, every.shape, every)]


def rows_of_codes(weight: GraphWeight, packed: Packed) -> list[Field]:
    """An expert's matrix as QMoE takes it: codes [N, bytes], and a gate's row in front of each up row."""
    codes_ND, scales = codes_of(weight, packed)
    if weight.target.name.endswith("gate_up"):
        order = np.arange(len(codes_ND)).reshape(2, -1).T.reshape(-1)
        codes_ND, scales = codes_ND[order], scales[order]
    data = nibbled(codes_ND) if weight.form == "int4" else codes_ND
    scales = np.ascontiguousarray(scales if weight.form == "int4" else scales[:, 0])
    return [Field("", UINT8, data.shape, data), Field(".scales", FLOAT, scales.shape, scales)]
