"""What a network costs, counted from its weight table alone: bytes held, bytes read per token, bytes of cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from twofold.ops.formats import Formats, format_of
from twofold.ops.packed import PANEL_ROWS, Format, padded, refined_panels, size_bytes
from twofold.ops.types import CacheShape, KvDtype, Role, Target


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Parameters and bytes of each part of a network, and what one decoded token reads of them."""

    parameters: Mapping[Role, int]
    bytes: Mapping[Role, int]
    active_experts: int
    read_bytes_per_token: int
    read_parameters_per_token: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(self.bytes.values())

    @property
    def total_parameters(self) -> int:
        """Parameters of the network."""
        return sum(self.parameters.values())


def footprint(targets: Iterable[Target], formats: Formats, active: int, tied: bool) -> Footprint:
    """Count the weights of a table, packed in these formats, with `active` experts per token.

    One token reads every weight once, but only `active` experts of a stack, of the embedding one row
    (all of it when it is the head too), and of a Refined head the coarse half and its likely panels' residual.
    """
    parameters: dict[Role, int] = {}
    sizes: dict[Role, int] = {}
    read_bytes = read_parameters = 0.0
    for target in targets:
        count, size = prod(target.shape), size_bytes(format_of(formats, target), target.shape)
        parameters[target.role] = parameters.get(target.role, 0) + count
        sizes[target.role] = sizes.get(target.role, 0) + size
        share = read_share(target, active, tied)
        read_bytes += size * share * refined_share(format_of(formats, target), target)
        read_parameters += count * share
    return Footprint(
        parameters=parameters,
        bytes=sizes,
        active_experts=active,
        read_bytes_per_token=round(read_bytes),
        read_parameters_per_token=round(read_parameters),
    )


def read_share(target: Target, active: int, tied: bool) -> float:
    """Part of a weight that one token reads."""
    if target.role == "embedding" and not tied:
        return 1 / target.shape[0]
    return active / target.shape[0] if target.role == "expert" else 1.0


def refined_share(form: Format, target: Target) -> float:
    """Part of a Refined weight's bytes that Ops.logits reads for one token; 1 for every other format."""
    if form != "refined":
        return 1.0
    rows = target.shape[0]
    return 0.5 + 0.5 * refined_panels(rows) * PANEL_ROWS / padded(rows, PANEL_ROWS)


def expected_read_bytes(counted: Footprint, expert_count: int, tokens: int) -> float:
    """Bytes of weights a step of `tokens` tokens is expected to read when routing is uniform.

    Everything but the experts is read once; of E experts, E * (1 - (1 - A / E)^tokens) are expected to be chosen.
    """
    if not expert_count:
        return counted.read_bytes_per_token
    expert_bytes = counted.bytes["expert"]
    once = counted.read_bytes_per_token - expert_bytes * counted.active_experts / expert_count
    return once + expert_bytes * (1.0 - (1.0 - counted.active_experts / expert_count) ** tokens)


def row_costs(counted: Footprint, expert_count: int, most_rows: int) -> tuple[float, ...]:
    """Bytes of weights that 1 to most_rows rows of one step are expected to read, relative to one row.

    1 throughout for a dense network, whose rows share every weight; for a mixture of experts each further row reads
    the experts that no row before it chose.
    """
    one = expected_read_bytes(counted, expert_count, 1)
    return tuple(expected_read_bytes(counted, expert_count, rows) / one for rows in range(1, most_rows + 1))


def pool_bytes(shape: CacheShape, slots: tuple[int, int], kv_dtype: KvDtype) -> int:
    """Bytes of a cache with slots[0] token slots in every global layer and slots[1] in every local one.

    Every slot of an int8 cache has a float32 scale beside each head.
    """
    held = sum(slots[0] if chunk is None else slots[1] for chunk in shape.chunks)
    head_bytes = shape.head_size + 4 if kv_dtype == "int8" else shape.head_size * (4 if kv_dtype == "f32" else 2)
    return 2 * shape.kv_heads * head_bytes * held


def cache_bytes(shape: CacheShape, tokens: int, kv_dtype: KvDtype) -> int:
    """Bytes of keys and values of one sequence: global layers hold every token, local ones at most one chunk."""
    local_tokens = min(tokens, shape.chunk or 0)
    return pool_bytes(shape, (tokens, local_tokens), kv_dtype)
