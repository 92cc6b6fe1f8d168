"""Attention on a real device: the kernels against float64 in torch, and what they reach at Scout's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.timing import Check, Point, errors_of, measured
from twofold.backends.gpu import attention
from twofold.backends.gpu.cache import GpuCache, new_layer
from twofold.backends.gpu.kernels import attend_few, attend_many
from twofold.backends.gpu.kernels.attend_few import attend_rows
from twofold.backends.gpu.kernels.attend_many import attend_tiles
from twofold.backends.gpu.kernels.heads import prepare
from twofold.ops.reference import ReferenceOps, kept
from twofold.ops.types import KvDtype, Rope

FEW_TOLERANCE = {"f32": 2e-5, "bf16": 3e-5, "int8": 3e-5}
MANY_TOLERANCE = {"f32": 2e-5, "bf16": 1e-2, "int8": 1e-2}
"""Tiles multiply queries and weights as bfloat16."""
BLOCK_SIZE = 32
CHUNK = 8192
CACHE_BYTES = 150e6
"""What is read in turn outgrows any cache."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Heads of a network."""

    heads: int
    kv_heads: int
    size: int
    block_size: int = BLOCK_SIZE


SCOUT = Heads(heads=40, kv_heads=8, size=128)
LLAMA_1B = Heads(heads=32, kv_heads=8, size=64)
ODD = Heads(heads=6, kv_heads=2, size=20, block_size=7)
MANY_HEADS = Heads(heads=40, kv_heads=1, size=12)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The last `counts[s]` of `lengths[s]` positions of each sequence, whose keys and values lie in a cache."""

    cache: GpuCache
    lengths: list[int]
    counts: list[int]
    q_THK: Tensor
    positions_T: Tensor
    sequence_T: Tensor
    starts_S: Tensor
    blocks_SB: Tensor
    bases_S: Tensor
    chunk: int

    def few(self, config: attend_few.Config | None = None) -> Tensor:
        """By the kernel of single rows."""
        return attend_rows(
            self.q_THK,
            self.cache,
            self.positions_T,
            self.starts_S,
            self.blocks_SB,
            self.bases_S,
            self.chunk,
            max(self.counts),
            config,
        )

    def many(self, config: attend_many.Config | None = None) -> Tensor:
        """By the kernel of tiles."""
        return attend_tiles(
            self.q_THK, self.cache, self.positions_T, self.starts_S, self.blocks_SB, self.bases_S, self.chunk,
            max(self.counts), 1, config,
        )  # fmt: skip

    def row(self, row: int) -> Rows:
        """One row alone."""
        sequence = int(self.sequence_T[row])
        one, its = slice(row, row + 1), slice(sequence, sequence + 1)
        return replace(
            self, q_THK=self.q_THK[one], positions_T=self.positions_T[one], blocks_SB=self.blocks_SB[its],
            bases_S=self.bases_S[its], starts_S=torch.arange(2, dtype=torch.int32, device=self.q_THK.device),
            counts=[1],
        )  # fmt: skip

    def first(self, rows: int) -> Rows:
        """The first rows of the only sequence."""
        starts_S = torch.tensor([0, rows], dtype=torch.int32, device=self.q_THK.device)
        return replace(
            self, q_THK=self.q_THK[:rows], positions_T=self.positions_T[:rows], starts_S=starts_S, counts=[rows]
        )


def random_rows(
    kv_dtype: KvDtype, lengths: list[int], counts: list[int], shape: Heads, chunk: int, device: torch.device
) -> Rows:
    """Random queries, keys and values. Blocks are handed out in a shuffled order; tables begin at position 0."""
    size = shape.block_size
    needed = [-(-length // size) for length in lengths]
    cache = new_layer(kv_dtype, (sum(needed) + 1, shape.kv_heads, size, shape.size), device)
    for array in cache.arrays:
        if array.dtype == torch.int8:
            array.random_(-127, 128)
        elif array.numel():
            array.uniform_(0.01, 0.02) if array.dim() == 3 else array.normal_()
    order = torch.randperm(sum(needed), device=device).int()
    blocks_SB = torch.zeros(len(lengths), max(needed), dtype=torch.int32, device=device)
    for row, blocks in zip(blocks_SB, order.split(needed), strict=True):
        row[: len(blocks)] = blocks
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    positions = [np.arange(length - count, length) for length, count in zip(lengths, counts, strict=True)]
    sequence = np.repeat(np.arange(len(counts)), counts)
    return Rows(
        cache=cache, lengths=lengths, counts=counts, chunk=chunk, blocks_SB=blocks_SB,
        q_THK=torch.randn(int(starts[-1]), shape.heads, shape.size, device=device) * 2,
        positions_T=torch.from_numpy(np.concatenate(positions).astype(np.int32)).to(device),
        sequence_T=torch.from_numpy(sequence.astype(np.int32)).to(device),
        starts_S=torch.from_numpy(starts).to(device),
        bases_S=torch.zeros(len(lengths), dtype=torch.int32, device=device),
    )  # fmt: skip


# Correctness ------------------------------------------------------------------------------------------------------


def check(device: str | torch.device) -> list[str]:
    """What is wrong, one line each."""
    device = torch.device(device)
    checks = [*head_checks(device), *few_checks(device), *many_checks(device)]
    found = errors_of(checks)
    failures = []
    for name, _, allowed in checks:
        result = found.get(name, "was not run")
        print(f"attention {name}: {result}", flush=True)
        if isinstance(result, str) or not result <= allowed:
            failures.append(f"{name}: {result} (allowed {allowed})")
    return failures


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    if got.shape != expected.shape or not bool(got.isfinite().all()):
        return float("inf")
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


def expected_rows(rows: Rows) -> Tensor:
    """o_TD in float64, one sequence after the other."""
    q_THK = rows.q_THK * rows.q_THK.shape[-1] ** -0.5
    if rows.cache.keys.dtype == torch.int8:
        codes_THK, scales_TH = attention.kept(q_THK)
        q_THK = codes_THK.float() * scales_TH[..., None]
    results = []
    for sequence, (length, q_QHK) in enumerate(zip(rows.lengths, q_THK.double().split(rows.counts), strict=True)):
        positions_L = torch.arange(length, device=q_THK.device)
        keys_LGK, values_LGK = attention.read(rows.cache, rows.blocks_SB[sequence], positions_L)
        seen_Q = positions_L[length - len(q_QHK) :, None]
        sees_QL = positions_L[None] <= seen_Q
        if rows.chunk:
            sees_QL &= positions_L[None] // rows.chunk == seen_Q // rows.chunk
        results.append(attention.attend_sequence(q_QHK, keys_LGK.double(), values_LGK.double(), sees_QL).flatten(1))
    return torch.cat(results)


def few_checks(device: torch.device) -> Iterator[Check]:
    """Rows of several sequences: shapes with tails, local and global layers, rows in any company."""
    for kv_dtype, shapes in (("f32", [ODD]), ("bf16", [SCOUT, LLAMA_1B, ODD, MANY_HEADS]), ("int8", [SCOUT, ODD])):
        for shape in shapes:
            for chunk in (0, 640) if shape is SCOUT else (100,):
                rows = random_rows(kv_dtype, [1500, 31, 700, 1], [3, 1, 2, 1], shape, chunk, device)
                name = f"few {kv_dtype} {shape.heads}/{shape.kv_heads}/{shape.size}, chunk {chunk}"
                yield name, partial(few_error, rows), FEW_TOLERANCE[kv_dtype]
        yield f"few {kv_dtype}: a row alone", partial(few_alone_error, rows), 0.0
    rows = random_rows("bf16", [1500, 31, 700, 1], [3, 1, 2, 1], SCOUT, 0, device)
    yield "few: a row alone", partial(few_alone_error, rows), 0.0
    long = random_rows("bf16", [131072], [1], SCOUT, 0, device)
    yield "few bf16 of 131072", partial(few_error, long), FEW_TOLERANCE["bf16"]
    for index, config in enumerate(attend_few.CONFIGS):
        yield f"few bf16, configuration {index}", partial(few_error, rows, config), FEW_TOLERANCE["bf16"]


def few_error(rows: Rows, config: attend_few.Config | None = None) -> float:
    """Of rows, twice: the counters of the first launch must be as they were."""
    expected = expected_rows(rows)
    first, second = rows.few(config), rows.few(config)
    return max(error(first, expected), 1.0 if not torch.equal(first, second) else 0.0)


def few_alone_error(rows: Rows) -> float:
    """Of every row in a batch against the row alone, and of one program for each row against several."""
    together = rows.few()
    alone = torch.cat([rows.row(row).few() for row in range(len(rows.q_THK))])
    config = replace(attend_few.choose(rows.cache.keys.dtype), programs=1)
    return max(error(alone, together), error(rows.few(config), together))


def many_checks(device: torch.device) -> Iterator[Check]:
    """Prompts of several lengths at once, begun or not; tiles across the edge of a chunk; any cut into steps."""
    for kv_dtype, shapes in (("f32", [ODD]), ("bf16", [SCOUT, LLAMA_1B, ODD]), ("int8", [SCOUT])):
        for shape in shapes:
            for chunk in (0, 640) if shape is SCOUT else (100,):
                rows = random_rows(kv_dtype, [900, 31, 700, 1], [900, 31, 301, 1], shape, chunk, device)
                name = f"many {kv_dtype} {shape.heads}/{shape.kv_heads}/{shape.size}, chunk {chunk}"
                yield name, partial(many_error, rows), MANY_TOLERANCE[kv_dtype]
        rows = random_rows(kv_dtype, [900], [700], shapes[0], 640, device)
        yield f"many {kv_dtype}: steps", partial(many_steps_error, rows), 0.0 if kv_dtype == "int8" else 1e-6
    rows = random_rows("bf16", [2000], [2000], SCOUT, 640, device)
    for index, config in enumerate(attend_many.CONFIGS):
        yield f"many bf16, configuration {index}", partial(many_error, rows, config), MANY_TOLERANCE["bf16"]


def many_error(rows: Rows, config: attend_many.Config | None = None) -> float:
    """Of tiles."""
    return error(rows.many(config), expected_rows(rows))


def many_steps_error(rows: Rows) -> float:
    """Of fewer rows at once against all of them."""
    together = rows.many()
    return max(error(rows.first(count).many(), together[:count]) for count in (1, 77, 128, 500))


def head_checks(device: torch.device) -> Iterator[Check]:
    """Every kind of cache, with rotation and norm."""
    for kv_dtype in ("f32", "bf16", "int8"):
        for shape in (SCOUT, ODD):
            yield f"heads {kv_dtype} {shape.heads}/{shape.size}", partial(heads_error, kv_dtype, shape, device), 2e-6


def heads_error(kv_dtype: KvDtype, shape: Heads, device: torch.device) -> float:
    """Of queries; 1 when a value that no arithmetic touched is not kept as it should be, or a key far from it."""
    heads, kv_heads, size = shape.heads, shape.kv_heads, shape.size
    rope, reference = Rope(head_size=size, theta=5e5, interleaved=shape is SCOUT), ReferenceOps()
    positions_T = np.array([9000, 0, 131071], np.int32)
    qkv_TN = np.random.default_rng(1).standard_normal((3, (heads + 2 * kv_heads) * size), np.float32)
    cache = new_layer(kv_dtype, (2, kv_heads, 4, size), device)
    angles = reference.angles(positions_T, rope)
    slots_T = torch.tensor([5, -1, 2], device=device)
    cosine_TK2, sine_TK2 = (torch.from_numpy(array).to(device) for array in angles)
    found = prepare(
        torch.from_numpy(qkv_TN).to(device), heads, kv_heads, size, slots_T, cache, cosine_TK2, sine_TK2,
        rope.interleaved, 1e-5,
    )  # fmt: skip
    q, k, v = reference.split_heads(qkv_TN, heads, kv_heads)
    q, k = (reference.unit_norm(reference.rotate(x, angles, rope), 1e-5) for x in (q, k))
    keys, values = attention.read(cache, torch.tensor([1, 0], device=device), torch.tensor([1, 6], device=device))
    wanted_keys, wanted_values = (torch.from_numpy(kept(x[[0, 2]], kv_dtype)).to(device) for x in (k, v))
    if not torch.equal(values, wanted_values) or error(keys, wanted_keys) > 1 / 100:
        return 1.0
    return error(found, torch.from_numpy(q).to(device))


# Speed ------------------------------------------------------------------------------------------------------------


def measure(device: str | torch.device) -> Iterator[dict[str, Any]]:
    """Decode and prefill at Scout's shapes, with all configurations where it matters most."""
    device = torch.device(device)
    for points in (few_points(device), many_points(device), head_points(device)):
        yield from measured(points)


def few_points(device: torch.device) -> Iterator[Point]:
    """One sequence at several depths, and many sequences."""
    for kv_dtype, count, depth in [
        ("bf16", 1, 1024), ("bf16", 1, 4096), ("bf16", 1, 8192), ("bf16", 1, 131072),
        ("bf16", 64, 4096), ("bf16", 256, 2048),
        ("int8", 1, 131072), ("int8", 64, 4096),
    ]:  # fmt: skip
        item = 2 if kv_dtype == "bf16" else 1 + 4 / SCOUT.size
        size_bytes = 2 * item * count * depth * SCOUT.kv_heads * SCOUT.size
        turns = max(1, int(CACHE_BYTES // size_bytes))
        every = [random_rows(kv_dtype, [depth] * count, [1] * count, SCOUT, 0, device) for _ in range(turns)]
        for config in attend_few.CONFIGS if kv_dtype == "bf16" and count == 1 and 2048 < depth < 16384 else (None,):
            yield Point(
                kernel=f"attend_few {kv_dtype}",
                shape=f"{count} x {depth}",
                configuration=str(config or "chosen"),
                calls=[partial(rows.few, config) for rows in every],
                bytes=size_bytes,
            )


def many_points(device: torch.device) -> Iterator[Point]:
    """A whole prompt, the end of a long one, and a local layer."""
    for kv_dtype, depth, count, chunk in [
        ("bf16", 8192, 8192, 0), ("bf16", 32768, 1024, 0), ("bf16", 16384, 16384, CHUNK), ("int8", 8192, 8192, 0),
    ]:  # fmt: skip
        rows = random_rows(kv_dtype, [depth], [count], SCOUT, chunk, device)
        if kv_dtype == "bf16":
            rows = replace(rows, q_THK=rows.q_THK.bfloat16())
        positions = np.arange(depth - count, depth)
        seen = float((positions % (chunk or 1 << 40) + 1).sum())
        for config in attend_many.CONFIGS if count == 8192 and kv_dtype == "bf16" else (None,):
            yield Point(
                kernel=f"attend_many {kv_dtype}",
                shape=f"{count} of {depth}, chunk {chunk}",
                configuration=str(config or "chosen"),
                calls=[partial(rows.many, config)],
                flops=4 * SCOUT.size * SCOUT.heads * seen,
            )


def head_points(device: torch.device) -> Iterator[Point]:
    """One token and many."""
    for tokens in (1, 64, 8192):
        cache = new_layer("bf16", (8192 // BLOCK_SIZE, SCOUT.kv_heads, BLOCK_SIZE, SCOUT.size), device)
        columns = (SCOUT.heads + 2 * SCOUT.kv_heads) * SCOUT.size
        qkv_TN = torch.randn(tokens, columns, device=device, dtype=torch.bfloat16)
        angles = torch.randn(tokens, SCOUT.size // 2, device=device)
        slots_T = torch.arange(tokens, device=device)
        call = partial(
            prepare, qkv_TN, SCOUT.heads, SCOUT.kv_heads, SCOUT.size, slots_T, cache, angles, angles, True, 1e-5
        )
        moved = tokens * SCOUT.size * (2 * columns / SCOUT.size + 4 * SCOUT.heads + 4 * SCOUT.kv_heads)
        yield Point("heads bf16", f"{tokens} tokens", "chosen", [call] * 4, bytes=moved)
