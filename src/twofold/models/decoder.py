"""What decoders have in common: an embedding, layers one after another, a final norm and a head.

A layer adds to the residual stream twice; how it attends and feeds forward is each network's own (llama.py, llama4.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from twofold.ops.types import Array, Batch, LayerCache, Weight

if TYPE_CHECKING:
    from twofold.models.llama4_config import Llama4Config
    from twofold.models.llama_config import LlamaConfig
    from twofold.ops.interface import Ops


class DecoderBlock(ABC):
    """One decoder layer with its weights, of which `output` projects what was attended; calling it runs a batch."""

    def __init__(self, output: Weight) -> None:
        self.output = output

    def __call__(
        self, ops: Ops, x_TD: Array, angles: Array, batch: Batch, cache: LayerCache, rows_R: Array | None = None
    ) -> Array:
        """The residual stream after this layer; of the named rows only, where nobody reads the others."""
        attended_TD = self.attention(ops, x_TD, angles, batch, cache)
        if rows_R is not None:
            x_TD, attended_TD = ops.take(x_TD, rows_R), ops.take(attended_TD, rows_R)
        x_TD = ops.add(x_TD, ops.linear(attended_TD, self.output))
        return ops.add(x_TD, self.feed_forward(ops, x_TD))

    @abstractmethod
    def attention(self, ops: Ops, x_TD: Array, angles: Array, batch: Batch, cache: LayerCache) -> Array:
        """What every token attends to, heads side by side; keys and values go into the cache."""

    @abstractmethod
    def feed_forward(self, ops: Ops, x_TD: Array) -> Array:
        """What is added to the stream behind the attention."""


class Decoder:
    """A network with its weights; calling it runs one batch."""

    def __init__(
        self, config: LlamaConfig | Llama4Config, weights: Mapping[str, Weight], blocks: Sequence[DecoderBlock]
    ) -> None:
        self.config = config
        self.embedding = weights["embedding"]
        self.final_norm = weights["final_norm"]
        self.head = weights["embedding"] if config.tied_head else weights["head"]
        self.blocks = blocks

    def __call__(self, ops: Ops, batch: Batch, cache: list[LayerCache]) -> Array:
        """Logits of the rows the batch asks for, [R, V]."""
        angles = ops.angles(batch.positions_T, self.config.rope)
        x_TD = ops.embed(self.embedding, batch.tokens_T)
        for block, layer_cache in zip(self.blocks[:-1], cache[:-1], strict=True):
            x_TD = block(ops, x_TD, angles, batch, layer_cache)
        x_RD = self.blocks[-1](ops, x_TD, angles, batch, cache[-1], batch.rows_R)
        return ops.logits(ops.norm(x_RD, self.final_norm, self.config.epsilon), self.head)
