"""The data that networks, engine and backends pass to each other.

Tensors end in their dimensions, from one key: T tokens of the batch, S sequences, B blocks of a table, R rows
whose logits are wanted, D hidden, H query heads, G KV heads, K head size, E experts, A active experts, F width,
V vocabulary, N output rows of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Array: TypeAlias = Any
"""A tensor of the backend at hand; networks pass it on and never look inside."""

Weight: TypeAlias = Any
"""A packed weight of the backend at hand (ops.packed says what its bits mean)."""

LayerCache: TypeAlias = Any
"""Keys and values of one layer, in blocks, as the backend at hand keeps them."""

KvDtype = Literal["f32", "bf16", "int8"]
"""How cached keys and values are kept; int8 has one scale per head and token."""

Role = Literal["norm", "router", "embedding", "head", "attention", "dense", "shared", "expert"]
"""What a weight is for; schemes choose their bits by it."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's frequency scaling: long waves are stretched by `factor`, short ones kept, a band between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding over heads of `head_size` elements.

    `interleaved`: pair i is elements (2i, 2i+1), as in Llama 4; otherwise (i, i + head_size/2), as in the Hugging
    Face files of Llama 2 and 3.
    """

    head_size: int
    theta: float
    interleaved: bool
    scaling: RopeScaling | None = None


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Llama 4's query scale on layers without positions: 1 + scale * ln(1 + floor((position + 1) / floor))."""

    floor: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Shape of the key and value cache of a network.

    `chunks[layer]` is None for a layer that sees the whole context, else the length of its attention chunk.
    """

    kv_heads: int
    head_size: int
    chunks: tuple[int | None, ...]

    @property
    def chunk(self) -> int | None:
        """The chunk length shared by all local layers; None when every layer is global."""
        return next((chunk for chunk in self.chunks if chunk is not None), None)


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Where one kind of layer (global or local) keeps the keys and values of a batch.

    slots_T int64: block * block_size + offset, where this step's token goes.
    blocks_SB int32: block table of each sequence, padded with -1.
    bases_S int32: position held by the first slot of each table (0 for global layers).
    """

    slots_T: Array
    blocks_SB: Array
    bases_S: Array


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tokens of one step, sequence after sequence. Prefill, decode and anything between look the same.

    tokens_T, positions_T int32; starts_S int32 [S + 1]: first row of each sequence, then T;
    rows_R int32: rows whose logits are wanted. Positions of a sequence are consecutive.
    `local_pages` is None when every layer is global.
    """

    tokens_T: Array
    positions_T: Array
    starts_S: Array
    rows_R: Array
    global_pages: Pages
    local_pages: Pages | None

    @property
    def kinds(self) -> tuple[Pages, ...]:
        """The pages of each kind of layer there is, global ones first."""
        return (self.global_pages,) if self.local_pages is None else (self.global_pages, self.local_pages)

    def pages(self, chunk: int | None) -> Pages:
        """The pages of a layer with this attention chunk (None: the whole context)."""
        if chunk is None:
            return self.global_pages
        assert self.local_pages is not None, "a batch for a network with local layers has local pages"
        return self.local_pages


@dataclass(frozen=True, kw_only=True)
class Source:
    """A matrix [rows, columns] inside a checkpoint's tensor.

    `shape` is the tensor's own shape. `expert` picks one matrix of a stack; `transposed` says that the file keeps
    it as [columns, rows].
    """

    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    transposed: bool = False

    @property
    def rows(self) -> int:
        """Rows of the matrix as the network wants it."""
        return self.shape[-1] if self.transposed else self.shape[-2] if len(self.shape) > 1 else 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """A weight the network asks for, and where the checkpoint holds it.

    `shape` is [D] for a norm, [N, D] for a matrix, [E, N, D] for stacked experts. `sources` has one entry per
    matrix (E of them for a stack); each entry lists the tensors whose rows follow one another in that matrix.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    sources: tuple[tuple[Source, ...], ...]


@dataclass(kw_only=True, slots=True)
class RowSampling:
    """How to draw the next token of one row. Neutral defaults: the plain softmax.

    Order: logit_bias, penalties, banned and allowed ids, temperature, top_k, top_p, min_p, draw. `temperature` 0 takes
    the best token (lowest id on ties). `seed` and `step` fix the draw, whatever else is in the batch. `prompt` and
    `generated` are the ids the penalties look at; they may stay empty when no penalty is set. `logprobs` asks for that
    many alternatives, -1 for none at all. `allowed`: bit t % 8 of byte t // 8 says whether id t may be drawn, ids
    beyond may not; None allows all. `token`: what follows is known, so nothing is drawn and this token is judged by the
    unmodified logits; of the other settings only `logprobs` matters then.

    Nobody changes it; it is not frozen because it is made for every row of every step, which would take four times as
    long.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    allowed: bytes | None = None
    seed: int = 0
    step: int = 0
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    logprobs: int = -1
    token: int | None = None


@dataclass(kw_only=True, slots=True)
class Drawn:
    """One drawn token, with the log-probability of the unmodified logits and of the best alternatives.

    rank: of a token that was known, among all: 1 for the likeliest, the same for equally likely ones. Not
    frozen for the reason that RowSampling is not.
    """

    token: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


class Drawing(Protocol):
    """Tokens that are being drawn, one for each row."""

    @property
    def is_final(self) -> bool:
        """After `result`: whether a step that `upload_after` gave these tokens beforehand had the right ones."""
        ...

    def result(self) -> list[Drawn]:
        """Wait for them. Raises what Ops.sample raises."""
        ...
