"""Exports of toys and the demo model, and what runs them: plainly through ONNX Runtime, or under the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.toys import open_toy
from twofold.engine.blocks import plan_layout
from twofold.engine.engine import Engine
from twofold.engine.limits import EngineLimits
from twofold.export.forward import GraphForward
from twofold.export.manifest import ExportedGraph
from twofold.export.session import EXACT, Opened, open_session
from twofold.models.network import Forward
from twofold.ops.reference import ReferenceOps
from twofold.quant.schemes import scheme
from twofold.weights.load import load

TARGETS = ("portable", "onnxruntime")


def engine_of(folder: Path, forward: Forward | None = None, step_tokens: int = 64, context: int = 600) -> Engine:
    """An engine over a checkpoint in float32: the reference, or another forward."""
    architecture, checkpoint = open_toy(folder)
    ops = ReferenceOps()
    if forward is None:
        weights = load(checkpoint, architecture.targets(checkpoint.names), scheme("f32"), ops.packer, None)
        forward = architecture.bind(weights)
    limits = EngineLimits(
        context=context, step_tokens=step_tokens, max_sequences=8, vocabulary=architecture.vocabulary, checks=True
    )
    shape = architecture.cache_shape
    return Engine(ops, forward, shape, plan_layout(shape.chunk, 2 * context, step_tokens, 8), limits)


def opened(export: Path) -> Opened:
    """An exported folder in ONNX Runtime, on the CPU."""
    return open_session(ExportedGraph.open(export), accuracy=EXACT)


def graph_engine(checkpoint: Path, export: Path, **sizes: int) -> Engine:
    """The same engine with the exported graph in place of the network."""
    return engine_of(checkpoint, GraphForward(opened(export)), **sizes)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@dataclass
class Loop:
    """The plain way to run a graph: what comes out as present goes in as past."""

    opened: Opened
    past: dict[str, np.ndarray] | None = None

    def feed(self, ids: np.ndarray, positions: np.ndarray, rows: list[int]) -> np.ndarray:
        """Run tokens [B, L] at positions [B, L] (-1: padding); logits of these rows of B * L."""
        session = self.opened.session
        feeds: dict[str, Any] = {"input_ids": ids, "position_ids": positions, "rows": np.array(rows, np.int64)}
        feeds |= self.past or empty_past(session, len(ids))
        names = [item.name for item in session.get_outputs() if not item.name.startswith("new_")]
        found = dict(zip(names, session.run(names, feeds), strict=True))
        logits: np.ndarray = found.pop("logits")
        renamed = {"present_positions": "past_positions", "present_local_positions": "local_positions"}
        self.past = {renamed.get(name, name.replace("present.", "past_key_values.")): x for name, x in found.items()}
        return logits


def empty_past(session: Any, batch: int) -> dict[str, np.ndarray]:
    """No keys, no values."""
    result = {}
    for item in session.get_inputs():
        if item.name not in ("input_ids", "position_ids", "rows"):
            dims = [batch if dim == "batch" else 0 if isinstance(dim, str) else dim for dim in item.shape]
            result[item.name] = np.zeros(dims, np.int64 if "int64" in item.type else np.float32)
    return result
