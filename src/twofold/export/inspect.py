"""What a graph is made of: its operators, counted, and whether the checker takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from twofold.errors import CheckpointError
from twofold.export.manifest import GRAPH_NAME


@dataclass(frozen=True, kw_only=True)
class Contents:
    """operators: how often each occurs, branches included, by "Name" or "domain.Name"; opsets: version by domain."""

    operators: Mapping[str, int]
    opsets: Mapping[str, int]

    @property
    def nodes(self) -> int:
        """All nodes."""
        return sum(self.operators.values())

    @property
    def foreign(self) -> int:
        """Nodes of operators outside the standard set."""
        return sum(number for name, number in self.operators.items() if "." in name)


def inspect(folder: Path) -> Contents:
    """Check a graph and count its operators, without its weights. Raises CheckpointError for what is no sound graph."""
    path = folder / GRAPH_NAME
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(path, load_external_data=False)
    except (onnx.checker.ValidationError, DecodeError) as error:
        told = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} is no sound graph: {told}. Export the model again.") from error
    found = count(model.graph)
    return Contents(
        operators=dict(found.most_common()),
        opsets={item.domain or "ai.onnx": item.version for item in model.opset_import},
    )


def count(graph: Any) -> Counter[str]:
    """Operators of a graph and of the branches in it."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += count(attribute.g)
    return found
