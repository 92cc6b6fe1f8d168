"""The ops a network is written in, as a protocol. A backend is anything that speaks it.

The reference (ops.reference) defines every result. Activations are float32 on the reference and on the cpu backend.
Row i of a batch is bit-equal to row i alone on the same backend, wherever ops.cases names no exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twofold.ops.packed import Packer
from twofold.ops.types import (
    Array,
    Batch,
    CacheShape,
    Drawing,
    Drawn,
    LayerCache,
    Pages,
    Rope,
    RowSampling,
    Temperature,
    Weight,
)


class Ops(Protocol):
    """What a network may ask for. Ops return new tensors and change nothing but the cache."""

    @property
    def packer(self) -> Packer:
        """What packs weights for this backend."""
        ...

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be asked for while the one in front still runs; then these are AheadOps."""
        ...

    def upload(self, batch: Batch) -> Batch:
        """The batch with its NumPy arrays turned into tensors of this backend."""
        ...

    def download(self, x: Array) -> Array:
        """A tensor as a float32 NumPy array."""
        ...

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[LayerCache]:
        """One cache per layer, with blocks[0] blocks for each global layer and blocks[1] for each local one."""
        ...

    def block_bytes(self, layers: Sequence[LayerCache]) -> int:
        """Bytes of one block of all these layers, as `read_block` gives them."""
        ...

    def read_block(self, layers: Sequence[LayerCache], block: int) -> bytes:
        """What a block of these layers (all global, or all local) holds, in a form of this backend's own."""
        ...

    def write_block(self, layers: Sequence[LayerCache], block: int, content: bytes) -> None:
        """Put back what `read_block` gave, into any block. Raises ValueError when it is of another size."""
        ...

    def embed(self, table_VD: Weight, tokens_T: Array) -> Array:
        """Rows of the embedding table: x_TD."""
        ...

    def angles(self, positions_T: Array, rope: Rope) -> Array:
        """What `rope` needs for these positions: cosine and sine, each [T, K/2], angles p * f in float32."""
        ...

    def norm(self, x_TD: Array, weight_D: Weight, epsilon: float) -> Array:
        """RMS norm: x / sqrt(mean(x^2) + epsilon) * weight, statistics in float32."""
        ...

    def linear(self, x_TD: Array, weight_ND: Weight) -> Array:
        """y_TN = x_TD @ weight_ND^T. Integer weights see x as int8 codes (ops.activations)."""
        ...

    def logits(self, x_RD: Array, head_VD: Weight) -> Array:
        """y_RV = linear(x_RD, head_VD), but of a Refined head only the likely tokens are scored in full.

        All tokens are scored with the coarse half; in each row the panels of 16 tokens with the best coarse scores
        (ops.packed.refined_panels of them; lower index on ties) get the residual's product added. A decoded token
        then reads little more than half of the head, and what it may draw is scored with all of its bits.
        """
        ...

    def split_heads(self, qkv_TN: Array, heads: int, kv_heads: int) -> tuple[Array, Array, Array]:
        """q_THK, k_TGK, v_TGK from the joint projection whose columns are all q, then all k, then all v heads."""
        ...

    def rotate(self, x_THK: Array, angles: Array, rope: Rope) -> Array:
        """Rotary position embedding of every head."""
        ...

    def unit_norm(self, x_THK: Array, epsilon: float) -> Array:
        """Weightless RMS norm of every head by itself (Llama 4's QK-norm)."""
        ...

    def temperature(self, q_THK: Array, positions_T: Array, setting: Temperature) -> Array:
        """Queries scaled by their position."""
        ...

    def attend(
        self,
        q_THK: Array,
        k_TGK: Array,
        v_TGK: Array,
        cache: LayerCache,
        batch: Batch,
        pages: Pages,
        chunk: int | None,
    ) -> Array:
        """Write k and v into the cache, then attend: o_TD, heads side by side.

        A query at position p sees the keys of its own sequence at positions <= p and, with a chunk, only those
        with position // chunk == p // chunk. Scores are q.k / sqrt(K); softmax in float32. With an int8 cache, q
        divided by sqrt(K) is quantised like the keys: one scale per head and token. With a bf16 cache, a backend
        whose matrix instructions want it may round q divided by sqrt(K) and the weights of the values to bf16 too.
        """
        ...

    def add(self, x_TD: Array, y_TD: Array) -> Array:
        """x + y."""
        ...

    def swiglu(self, gate_up_TN: Array) -> Array:
        """silu(gate) * up, where gate is the first half of the columns and up the second: a_TF.

        a_TF may take the place of gate in gate_up_TN.
        """
        ...

    def route(self, x_TD: Array, router_ED: Weight, active: int) -> tuple[Array, Array]:
        """Choose `active` experts per token.

        Returns experts_TA int32, best logit first (lower index on ties), and gates_TA float32 in (0, 1): the sigmoid
        of each chosen logit, not normalised across experts.
        Source: llama-models, models/llama4/moe.py, MoE.forward.
        """
        ...

    def experts(self, x_TD: Array, experts_TA: Array, gates_TA: Array, gate_up_END: Weight, down_EDF: Weight) -> Array:
        """Sum over the chosen experts of down(swiglu(gate_up(gate * x))): y_TD.

        The gate scales the expert's input, before the non-linearity. Integer weights quantise x once per token and
        multiply the token's scale by the gate.
        """
        ...

    def take(self, x_TD: Array, rows_R: Array) -> Array:
        """The named rows: x_RD."""
        ...

    def sample(self, logits_RV: Array, rows: Sequence[RowSampling]) -> list[Drawn]:
        """Draw one token per row (ops.sampling defines how)."""
        ...


class AheadOps(Ops, Protocol):
    """Ops that take a step while the one in front still runs: those whose `runs_ahead` is true."""

    def begin_sample(self, logits_RV: Array, rows: Sequence[RowSampling]) -> Drawing:
        """`sample`, without waiting for what is drawn. The next step may overwrite the logits."""
        ...

    def upload_after(self, batch: Batch, before: Drawing, rows: Sequence[int]) -> Batch:
        """`upload`, of one token for each sequence: not the batch's own but what `before` draws for its row rows[i]."""
        ...
