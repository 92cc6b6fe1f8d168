"""A graph in the making: nodes, constants and weights, in the order in which they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from twofold.export.files import Span, WeightsFile
from twofold.ops.packed import AnyArray

OPSET = 23
"""The first one with Attention, RotaryEmbedding and RMSNormalization."""
IR_VERSION = 11
CONTRIB = "com.microsoft"
CONTRIB_VERSION = 1


class Graph:
    """Appends nodes and hands out names of values; weights go to `file`.

    Nodes appended inside `branch` belong to that branch of an If.
    """

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants_kept: list[Any] = []
        self._weights: list[Any] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        """A name nobody has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare an input of the graph; a dimension with a name is dynamic."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph under this name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=self.name("Output")))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        return self.nodes(kind, 1, *inputs, domain=domain, **attributes)[0]

    def nodes(self, kind: str, outputs: int, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Append a node; returns the names of its outputs."""
        name = self.name(kind)
        names = [name if index == 0 else f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, name=name, domain=domain, **attributes))
        return names

    def constant(self, value: AnyArray | np.generic) -> str:
        """A small constant inside the graph's own file; equal ones are kept once, outside all branches."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = self.name("constant")
            self._constants_kept.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str, dtype: int, shape: Sequence[int], span: Span) -> str:
        """A weight that lies in the weights file; inside a branch it is that branch's own."""
        tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (("location", self.file.path.name), ("offset", span.offset), ("length", span.length)):
            tensor.external_data.add(key=key, value=str(value))
        self._weights.append(tensor)
        return name

    @contextmanager
    def branch(self) -> Iterator[Branch]:
        """What is appended inside the block, weights too, becomes a branch; its outputs are set on the object."""
        made = Branch()
        outer = self._nodes, self._weights
        self._nodes, self._weights = made.nodes, made.weights
        try:
            yield made
        finally:
            self._nodes, self._weights = outer

    def choose(self, condition: str, then: Branch, otherwise: Branch) -> list[str]:
        """An If over two branches with equally many outputs; returns the names of its outputs."""
        branches = {"then_branch": then.graph(self.name("then")), "else_branch": otherwise.graph(self.name("else"))}
        return self.nodes("If", len(then.outputs), condition, **branches)

    def model(self, name: str, uses_contrib: bool, version: str) -> Any:
        """The finished model; `version` is twofold's."""
        opsets = [helper.make_opsetid("", OPSET)]
        if uses_contrib:
            opsets.append(helper.make_opsetid(CONTRIB, CONTRIB_VERSION))
        graph = helper.make_graph(self._nodes, name, self.inputs, self.outputs, [*self._constants_kept, *self._weights])
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="twofold", producer_version=version
        )


class Branch:
    """One branch of an If: its nodes, the weights only it needs, and the values it gives (name, dtype, shape)."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: Sequence[tuple[str, int, Sequence[int | str | None]]] = ()

    def graph(self, name: str) -> Any:
        """The branch as a graph."""
        outputs = [helper.make_tensor_value_info(*output) for output in self.outputs]
        return helper.make_graph(self.nodes, name, [], outputs, self.weights)
