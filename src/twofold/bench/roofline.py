"""What a step of a network takes on a machine: the slower of reading and computing, part by part.

A step of n rows at depth T, one of each of n sequences (decode), takes

    layers * layer_s
    + sum over parts of max(bytes read / (read limit * read share), operations / (rate * share of rate))
    + max(key and value bytes / (read limit * kv share), operations of attention / (float rate * attention share))

Of E experts, A active, E * (1 - (1 - A / E)^n) are expected to be read. A prompt is read in steps of STEP_TOKENS rows.
The shares are what our kernels were measured to reach (efficiency.toml); the limits are measured or from a data sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from twofold.ops.cost import Footprint, cache_bytes, expected_read_bytes, footprint, pool_bytes
from twofold.ops.formats import Formats, format_of
from twofold.ops.packed import Format
from twofold.ops.types import CacheShape, KvDtype, Role, Target

STEP_TOKENS = 512
"""Rows of one step while a prompt is read; the engine's own default."""
FEW_ROWS = 20
"""Below so many rows per matrix the kernels take weights as they lie, above they unpack them first (LOG.md)."""

Family = Literal["int4", "int8", "fp8", "float"]
FAMILIES: Mapping[Format, Family] = {
    "f32": "float", "bf16": "float", "int8": "int8", "fp8": "fp8", "int4": "int4", "refined": "int4", "group4": "int4",
}  # fmt: skip
"""Which formats share kernels, hence rates."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a machine can do: bytes per second of its memory, operations per second by kind of number."""

    read_bytes_per_s: float
    int8_ops_per_s: float
    int4_ops_per_s: float
    float_ops_per_s: float
    fp8_ops_per_s: float

    def rate(self, family: Family) -> float:
        """Operations per second of products with such weights."""
        rates: Mapping[Family, float] = {
            "int4": self.int4_ops_per_s,
            "int8": self.int8_ops_per_s,
            "fp8": self.fp8_ops_per_s,
            "float": self.float_ops_per_s,
        }
        return rates[family]


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Parts of the limits that kernels reach, by family of formats, and what no limit explains.

    read: of the memory's rate; few, many: of the arithmetic's, for few and many rows; kv: of the memory's while keys
    and values are read; attention: of the float rate; layer_s: seconds of each layer and step; working_bytes: of
    interpreter and buffers beside weights, cache and activations.
    """

    read: Mapping[Family, float]
    few: Mapping[Family, float]
    many: Mapping[Family, float]
    kv: float
    attention: float
    layer_s: float
    working_bytes: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """Weights of one role, which share a format: what is held and read of them."""

    role: Role
    family: Family
    counted: Footprint


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in one scheme, as far as its speed and size depend on it. widest: rows of its widest layer matrix."""

    layers: int
    hidden: int
    heads: int
    expert_count: int
    cache_shape: CacheShape
    parts: tuple[Part, ...]
    whole: Footprint
    tied: bool
    widest: int


def build_network(
    targets: Sequence[Target],
    formats: Formats,
    sizes: tuple[int, int, int],
    experts: tuple[int, int],
    cache: CacheShape,
) -> Network:
    """Count a weight table; sizes are layers, hidden size and heads, experts how many there are and are active."""
    tied = not any(target.role == "head" for target in targets)
    groups: dict[tuple[Role, Family], list[Target]] = {}
    for target in targets:
        groups.setdefault((target.role, FAMILIES[format_of(formats, target)]), []).append(target)
    layers, hidden, heads = sizes
    return Network(
        layers=layers,
        hidden=hidden,
        heads=heads,
        expert_count=experts[0],
        cache_shape=cache,
        parts=tuple(
            Part(role=role, family=family, counted=footprint(group, formats, experts[1], tied))
            for (role, family), group in groups.items()
        ),
        whole=footprint(targets, formats, experts[1], tied),
        tied=tied,
        widest=max(target.shape[-2] for target in targets if target.role not in ("norm", "embedding", "head")),
    )


def decode_seconds(network: Network, limits: Limits, shares: Shares, rows: int, depth: int, kv_dtype: KvDtype) -> float:
    """Seconds of a step that gives each of `rows` sequences one token, with `depth` tokens before it."""
    seconds = network.layers * shares.layer_s
    seconds += sum(part_seconds(network, part, limits, shares, rows) for part in network.parts)
    read_s = rows * cache_bytes(network.cache_shape, depth, kv_dtype) / (limits.read_bytes_per_s * shares.kv)
    seen = sum(min(depth, chunk or depth) for chunk in network.cache_shape.chunks)
    return seconds + max(read_s, attention_seconds(network, limits, shares, rows * seen))


def prefill_seconds(network: Network, limits: Limits, shares: Shares, tokens: int) -> float:
    """Seconds of reading a prompt, in steps of STEP_TOKENS; the head is read once, for its last token."""
    full, rest = divmod(tokens, STEP_TOKENS)
    head = "embedding" if network.tied else "head"
    seconds = 0.0
    for rows, steps in ((STEP_TOKENS, full), (rest, 1)):
        if not rows or not steps:
            continue
        parts = [part for part in network.parts if part.role != head]
        step_s = sum(part_seconds(network, part, limits, shares, rows) for part in parts)
        seconds += steps * (network.layers * shares.layer_s + step_s)
    seconds += sum(part_seconds(network, part, limits, shares, 1) for part in network.parts if part.role == head)
    pairs = sum(seen_pairs(tokens, chunk) for chunk in network.cache_shape.chunks)
    return seconds + attention_seconds(network, limits, shares, pairs)


def part_seconds(network: Network, part: Part, limits: Limits, shares: Shares, rows: int) -> float:
    """Seconds of one part of the weights in a step of `rows` rows."""
    counted, family = part.counted, part.family
    experts = network.expert_count if part.role == "expert" else 0
    read = expected_read_bytes(counted, experts, rows)
    if part.role == "embedding" and not network.tied:
        return rows * read / limits.read_bytes_per_s
    distinct = read / counted.read_bytes_per_token
    share = (shares.few if rows / distinct < FEW_ROWS else shares.many)[family]
    computed_s = 2.0 * counted.read_parameters_per_token * rows / (limits.rate(family) * share)
    return max(read / (limits.read_bytes_per_s * shares.read[family]), computed_s)


def attention_seconds(network: Network, limits: Limits, shares: Shares, pairs: float) -> float:
    """Seconds of so many pairs of a query and a key, over all layers: two products of a head's size each."""
    operations = 4.0 * network.heads * network.cache_shape.head_size * pairs
    return operations / (limits.float_ops_per_s * shares.attention)


def seen_pairs(tokens: int, chunk: int | None) -> float:
    """Pairs of a token and one it sees, in a layer with this chunk (None: all before it)."""
    full, rest = divmod(tokens, chunk) if chunk else (0, tokens)
    return (full * (chunk or 0) ** 2 + rest**2) / 2.0


def memory_bytes(network: Network, shares: Shares, users: int, context: int, kv_dtype: KvDtype) -> float:
    """Bytes a process holds that serves `users` sequences of `context` tokens: weights, cache and the rest."""
    return network.whole.total_bytes + cache_pool_bytes(network, users, context, kv_dtype) + working(network, shares)


def cache_pool_bytes(network: Network, users: int, context: int, kv_dtype: KvDtype) -> int:
    """Bytes of keys and values: global layers hold every token, local ones at most a chunk and a step of each user."""
    local = min(context, (network.cache_shape.chunk or 0) + STEP_TOKENS)
    return pool_bytes(network.cache_shape, (users * context, users * local), kv_dtype)


def working(network: Network, shares: Shares) -> float:
    """Bytes beside weights and cache: the interpreter, and float32 activations of one step of a prompt."""
    return shares.working_bytes + activation_bytes(network)


def activation_bytes(network: Network) -> float:
    """Float32 activations of one step: four rows as wide as the network, one as its widest matrix."""
    return 4.0 * STEP_TOKENS * (4 * network.hidden + network.widest)
