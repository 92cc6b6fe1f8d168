"""What the products by tiles have in common: blocks of rows, the size of a tile, and which program takes which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import wait
from twofold.backends.gpu.kernels.launching import cdiv, power_from

PLAIN_BLOCK = 128


@dataclass(frozen=True)
class Tiling:
    """Rows of the weight and bytes of each in a tile, warps, stages of loading, blocks that take a tile together."""

    rows: int
    row_bytes: int
    warps: int
    stages: int
    together: int = 8


class Order(Protocol):
    """Rows put in order by their experts, in blocks: see Blocks.rows_P and Blocks.expert_B."""

    @property
    def rows(self) -> Tensor:
        """int32 [blocks * block]."""
        ...

    @property
    def expert_of_block(self) -> Tensor:
        """int32 [blocks]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Rows of a product in blocks of one expert each.

    rows_P int32 [count * block]: the row of y each place stands for; a number that is no row fills a block up.
    expert_B int32 [count]: below zero where a block has no row. Row r of y belongs to row r // active of x.
    active 0: all rows one after the other with one matrix; rows_P and expert_B are not looked at.
    """

    x_TD: Tensor
    active: int
    rows_P: Tensor
    expert_B: Tensor
    gates_R: Tensor | None
    rows: int
    block: int
    count: int

    @staticmethod
    def ordered(x_TD: Tensor, active: int, order: Order, gates_R: Tensor | None) -> Blocks:
        """Blocks of rows that were put in order by their experts."""
        count = len(order.expert_of_block)
        return Blocks(
            x_TD=x_TD,
            active=active,
            rows_P=order.rows,
            expert_B=order.expert_of_block,
            gates_R=gates_R,
            rows=len(x_TD) * active,
            block=len(order.rows) // count,
            count=count,
        )

    @staticmethod
    def plain(x_TD: Tensor) -> Blocks:
        """Blocks of rows one after the other, for a weight that is no stack."""
        tokens = len(x_TD)
        block = min(PLAIN_BLOCK, max(16, power_from(tokens)))
        count = cdiv(tokens, block)
        return Blocks(
            x_TD=x_TD, active=0, rows_P=x_TD, expert_B=x_TD, gates_R=None, rows=tokens, block=block, count=count
        )


@triton.jit
def block_rows(rows, experts, block, row_count, ACTIVE: tl.constexpr, BLOCK: tl.constexpr):
    """Of a block: its expert (below zero: there is nothing to do), its rows, which of them are rows, their tokens."""
    if ACTIVE > 0:
        expert = tl.load(experts + block).to(tl.int64)
        row = tl.load(rows + block * BLOCK + tl.arange(0, BLOCK))
        is_row = (row >= 0) & (row < row_count)
        # places without a row read one token each: if all read the same one, a cache's slice is asked by everybody
        place = (block * BLOCK + tl.arange(0, BLOCK)) % tl.maximum(row_count // ACTIVE, 1)
        token = tl.where(is_row, row // ACTIVE, place)
    else:
        expert = tl.full([], 0, tl.int64)
        row = block * BLOCK + tl.arange(0, BLOCK)
        is_row = row < row_count
        token = tl.where(is_row, row, 0)
    return expert, row, is_row, token.to(tl.int64)


@triton.jit
def place_program(blocks, tiles, TOGETHER: tl.constexpr):
    """(block, tile) of this program: TOGETHER blocks go through all tiles side by side, so that a tile of the weight is
    read while it is in the cache.
    """  # fmt: skip
    program = tl.program_id(0)
    strip = program // (TOGETHER * tiles)
    first = strip * TOGETHER
    height = tl.minimum(blocks - first, TOGETHER)
    inside = program - strip * TOGETHER * tiles
    return first + inside % height, inside // height


@triton.jit
def read_tile(pointers, mask, MASKED: tl.constexpr):
    """What is there, zero where the mask says no; without MASKED the mask is not looked at, which costs less."""
    if MASKED:
        found = tl.load(pointers, mask=mask, other=0.0)  # an integer would not become a float8
    else:
        found = tl.load(pointers)
    return found


@triton.jit
def find_row(experts, row, ACTIVE: tl.constexpr, EARLY: tl.constexpr):
    """(token, expert) of a routed row, int64, once they are known; those of one matrix where ACTIVE is 0, at once."""
    if ACTIVE > 0:
        token = (row // ACTIVE + wait(EARLY)).to(tl.int64)
        expert = tl.load(experts + row).to(tl.int64)
    else:
        token = tl.full([], 0, tl.int64)
        expert = tl.full([], 0, tl.int64)
    return token, expert
