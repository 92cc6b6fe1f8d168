"""Runs a network over calibration texts one decoder layer at a time, with only that layer's weights in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from twofold.engine.batch import build_batch
from twofold.engine.blocks import Blocks, plan_layout
from twofold.engine.plan import Slice
from twofold.engine.request import Request, SamplingParams
from twofold.engine.request import Sequence as Text
from twofold.models.network import Architecture
from twofold.ops.interface import Ops
from twofold.ops.packed import Floats, Packed
from twofold.ops.types import Batch, CacheShape, LayerCache
from twofold.quant.units import Unit

Activations = list[Floats]
"""The residual stream, float32 [tokens, hidden], of every text."""


class LayerRunner:
    """Texts on their way through a network."""

    def __init__(self, architecture: Architecture, ops: Ops, texts: Sequence[Sequence[int]]) -> None:
        self.architecture = architecture
        self.ops = ops
        self.texts = texts

    def with_ops(self, ops: Ops) -> LayerRunner:
        """The same texts on other ops."""
        return LayerRunner(self.architecture, ops, self.texts)

    def split(self, rows_TD: Floats) -> Activations:
        """Activations of all texts, one under another, as one array per text."""
        return np.split(rows_TD, np.cumsum([len(ids) for ids in self.texts])[:-1])

    def run(self, unit: Unit, weights: Mapping[str, Packed], before: Activations | None) -> Activations:
        """The activations behind a unit; what the head gives is only of use to those who watch."""
        if unit.layer is not None:
            assert before is not None, "the embedding comes first"
            return self.run_layer(unit.layer, weights, before)
        if unit.name == "embedding":
            tables = [np.array(ids, np.int32) for ids in self.texts]
            return [np.asarray(self.ops.embed(weights["embedding"], ids), np.float32) for ids in tables]
        assert before is not None, "the embedding comes first"
        for x_TD in before:
            normed_TD = self.ops.norm(x_TD, weights["final_norm"], self.architecture.epsilon)
            if "head" in weights:
                self.ops.logits(normed_TD, weights["head"])
        return before

    def run_layer(self, index: int, weights: Mapping[str, Packed], before: Activations) -> Activations:
        """Every text through one decoder layer."""
        shape = self.architecture.cache_shape
        chunk = shape.chunks[index]
        longest = max(len(ids) for ids in self.texts)
        layout = plan_layout(shape.chunk, longest, longest, 1)
        only = CacheShape(kv_heads=shape.kv_heads, head_size=shape.head_size, chunks=(chunk,))
        cache: LayerCache = self.ops.new_cache(only, (layout.global_blocks, layout.local_blocks), layout.block_size)[0]
        block = self.architecture.block(weights, index)
        result = []
        for ids, x_TD in zip(self.texts, before, strict=True):
            batch = self.ops.upload(whole_text(ids, Blocks(layout)))
            angles = self.ops.angles(batch.positions_T, self.architecture.rope)
            result.append(np.array(self.ops.download(block(self.ops, x_TD, angles, batch, cache)), np.float32))
        return result


def whole_text(ids: Sequence[int], blocks: Blocks) -> Batch:
    """A batch that holds one text from its first to its last token."""
    request = Request(id=0, prompt=tuple(ids), params=SamplingParams(), seed=0, stop_ids=frozenset(), max_tokens=1)
    text = Text(request=request, tokens=list(ids))
    assert blocks.reserve(text, len(ids)), "the layout holds the longest text"
    return build_batch([Slice(sequence=text, count=len(ids))], blocks.layout)


def build_calibration_ops() -> Ops:
    """The native backend, with keys and values in float32."""
    from twofold.backends.cpu.ops import CpuOps

    return CpuOps(kv_dtype="f32")
