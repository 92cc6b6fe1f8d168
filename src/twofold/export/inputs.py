"""What goes into a graph and comes out of it beside logits: tokens, positions, past and present keys and values.

In:
    input_ids          int64 [batch, length]
    position_ids       int64 [batch, length]         -1: padding
    past_positions     int64 [batch, past]           the position of every past slot of global layers, -1: empty
    local_positions    int64 [batch, local]          the same for local layers; only where there are any
    past_key_values.N.key, .value   float [batch, KV heads, past or local, head size]
    rows               int64 [rows]                  of batch * length: whose logits are wanted

Out:
    logits             float [rows, vocabulary]
    present.N.key, .value           past and new ones of layer N; of a local layer from the next token's chunk on
    present_positions, present_local_positions       their positions
    new_key_values.N.key, .value    float [batch * length, KV heads, head size]: the new ones alone

What is called present is the next call's past. By default new slots come behind all past ones, and padding may be
anywhere. Packed (GroupQueryAttention): each sequence has its slots at the beginning, one position after the other, and
padding behind them; several tokens of several sequences at once only without a past.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from twofold.export.graph import Graph
from twofold.ops.types import Batch, CacheShape, Pages

INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT


class Inputs:
    """Declares inputs and outputs, and computes what layers share."""

    def __init__(self, graph: Graph, shape: CacheShape, is_packed: bool) -> None:
        self.graph = graph
        self.shape = shape
        self.is_packed = is_packed
        self._keys: dict[int | None, str] = {}
        self._kept: dict[int, str] = {}
        self.declare()

    def declare(self) -> None:
        """Tokens, positions and rows, and the positions of the past."""
        graph, shape = self.graph, self.shape
        self.ids = graph.input("input_ids", INT64, ["batch", "length"])
        self.positions = graph.input("position_ids", INT64, ["batch", "length"])
        self.rows = graph.input("rows", INT64, ["rows"])
        self.pasts: dict[int | None, str] = {}
        if None in shape.chunks:
            self.pasts[None] = graph.input("past_positions", INT64, ["batch", "past"])
        if shape.chunk is not None:
            self.pasts[shape.chunk] = graph.input("local_positions", INT64, ["batch", "local"])
        self._size = graph.node("Shape", self.ids)

    def batch(self) -> Batch:
        """The batch a network's forward is given: names of flat tensors."""
        none = Pages(slots_T="", blocks_SB="", bases_S="")
        flat = self.graph.integers(-1)
        return Batch(
            tokens_T=self.graph.node("Reshape", self.ids, flat),
            positions_T=self.graph.node("Reshape", self.positions, flat),
            starts_S="",
            rows_R=self.rows,
            global_pages=none,
            local_pages=none,
        )

    def shaped(self, width: int) -> str:
        """The shape [batch, length, width]."""
        return self.graph.node("Concat", self._size, self.graph.integers(width), axis=0)

    def past(self, index: int, chunk: int | None) -> list[str]:
        """Declare the past of a layer: names of keys and values."""
        dims = self.dims("past" if chunk is None else "local")
        return [self.graph.input(f"past_key_values.{index}.{kind}", FLOAT, dims) for kind in ("key", "value")]

    def dims(self, slots: str) -> Sequence[int | str]:
        """Dimensions of keys or values."""
        return ["batch", self.shape.kv_heads, slots, self.shape.head_size]

    def key_positions(self, chunk: int | None) -> str:
        """Positions of past and new slots, [batch, slots], -1 where there is nothing."""
        if chunk not in self._keys:
            joined = self.joined_positions(chunk)
            self._keys[chunk] = self.packed(joined) if self.is_packed else joined
        return self._keys[chunk]

    def joined_positions(self, chunk: int | None) -> str:
        """Positions of past and new slots as they come in."""
        return self.graph.node("Concat", self.pasts[chunk], self.positions, axis=1)

    def packed(self, joined: str) -> str:
        """The same positions with padding moved behind them; those of a sequence follow one another."""
        graph = self.graph
        counted = graph.node("Unsqueeze", self.count(joined), graph.integers(1))
        last = graph.node("ReduceMax", joined, graph.integers(1), keepdims=1)
        _, steps = self.slots(joined)
        one = graph.constant(np.int64(1))
        first = graph.node("Add", graph.node("Sub", last, counted), one)
        inside = graph.node("Less", steps, counted)
        return graph.node("Where", inside, graph.node("Add", first, steps), graph.constant(np.int64(-1)))

    def slots(self, positions: str) -> tuple[str, str]:
        """How many slots there are, and their numbers [slots]."""
        graph = self.graph
        zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
        slots = graph.node("Gather", graph.node("Shape", positions), one)
        return slots, graph.node("Range", zero, slots, one)

    def count(self, positions: str) -> str:
        """How many slots of each row are no padding, int64 [batch]."""
        graph = self.graph
        real = graph.node("GreaterOrEqual", positions, graph.constant(np.int64(0)))
        return graph.node("ReduceSum", graph.node("Cast", real, to=INT64), graph.integers(1), keepdims=0)

    def chunk_of(self, positions: str, chunk: int) -> str:
        """Where the chunk begins that a position is in.

        By a remainder: OpenVINO fuses a quotient of integers and its comparison in floats, and does not round.
        """
        return self.graph.node(
            "Sub", positions, self.graph.node("Mod", positions, self.graph.constant(np.int64(chunk)))
        )

    def present(self, index: int, chunk: int | None, present: Sequence[str]) -> None:
        """Make keys and values outputs; of a local layer what no later token can see is cut off."""
        dims = self.dims("present" if chunk is None else "local_present")
        for value, kind in zip(present, ("key", "value"), strict=True):
            kept = value if chunk is None else self.cut(value, chunk, 2)
            self.graph.output(kept, f"present.{index}.{kind}", FLOAT, dims)

    def cut(self, value: str, chunk: int, axis: int) -> str:
        """The slots from the first one on that some row's next token sees."""
        return self.graph.node("Gather", value, self.kept(chunk), axis=axis)

    def kept(self, chunk: int) -> str:
        """Numbers of the slots from the first one on that is in the chunk of some row's next position."""
        if chunk not in self._kept:
            graph = self.graph
            positions = self.key_positions(chunk)
            last = graph.node("ReduceMax", positions, graph.integers(1), keepdims=1)
            following = graph.node("Add", last, graph.constant(np.int64(1)))
            needed = graph.node("GreaterOrEqual", positions, self.chunk_of(following, chunk))
            real = graph.node("GreaterOrEqual", positions, graph.constant(np.int64(0)))
            # the least index, not ArgMax: among equals OpenVINO does not take the first
            slots, steps = self.slots(positions)
            places = graph.node("Where", graph.node("And", needed, real), steps, slots)
            first = graph.node("ReduceMin", places, graph.integers(0, 1), keepdims=0)
            self._kept[chunk] = graph.node("Range", first, slots, graph.constant(np.int64(1)))
        return self._kept[chunk]

    def finish(self, logits_RV: str, vocabulary: int) -> None:
        """Declare the outputs that belong to no layer."""
        self.graph.output(logits_RV, "logits", FLOAT, ["rows", vocabulary])
        for chunk in self.pasts:
            positions = self.key_positions(chunk)
            if chunk is None:
                self.graph.output(positions, "present_positions", INT64, ["batch", "present"])
            else:
                kept = self.cut(positions, chunk, 1)
                self.graph.output(kept, "present_local_positions", INT64, ["batch", "local_present"])
