"""A network that is an exported graph: what the engine calls in place of a network's own forward.

The engine's cache stays what it is, blocks of keys and values in NumPy arrays. For a step the blocks of each sequence
become its past, side by side; the graph gives the new keys and values, which are put into their slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.export.session import Opened
from twofold.ops.packed import AnyArray, Floats
from twofold.ops.reference import ReferenceCache
from twofold.ops.types import Batch, Pages

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Sequences of a batch that run in one call, `length` tokens each; `rows` are their tokens in the batch."""

    members: Sequence[int]
    length: int
    rows: Longs


class GraphForward:
    """Runs batches through a session; see models.network.Forward. The ops it is given are the cache's only."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.manifest = opened.manifest
        names = [f"new_key_values.{index}.{kind}" for index in range(len(self.chunks)) for kind in ("key", "value")]
        self._outputs = ["logits", *names]

    @property
    def chunks(self) -> tuple[int | None, ...]:
        """Attention chunk of every layer."""
        return self.manifest.chunks

    def __call__(self, ops: object, batch: Batch, cache: list[ReferenceCache]) -> Floats:
        """Logits of the rows the batch asks for, [R, V]; new keys and values go into the cache."""
        logits_RV = np.empty((len(batch.rows_R), self.manifest.vocabulary), np.float32)
        for group in self.groups(batch):
            wanted_R, places_W = self.wanted(batch, group)
            logits_WV, *new = self.opened.run(self._outputs, self.feeds(batch, group, cache, wanted_R))
            logits_RV[places_W] = logits_WV
            self.keep(batch, group, cache, new)
        return logits_RV

    def groups(self, batch: Batch) -> Iterator[Group]:
        """Sequences with equally many tokens run together: nothing is padded but their pasts.

        GroupQueryAttention takes several sequences only where each has one token.
        """
        counts_S = np.diff(batch.starts_S)
        for count in np.unique(counts_S):
            members = np.flatnonzero(counts_S == count)
            alone = self.manifest.is_packed and count > 1
            for some in members.reshape(-1, 1) if alone else members.reshape(1, -1):
                rows = (batch.starts_S[some][:, None] + np.arange(count)).reshape(-1)
                yield Group(some.tolist(), int(count), rows.astype(np.int64))

    def wanted(self, batch: Batch, group: Group) -> tuple[Longs, Longs]:
        """Which of the group's rows have their logits wanted, and where these go."""
        order = np.argsort(group.rows)
        found = np.searchsorted(group.rows, batch.rows_R, sorter=order)
        at = order[np.minimum(found, len(order) - 1)]
        places = np.flatnonzero(group.rows[at] == batch.rows_R)
        return at[places], places

    def feeds(self, batch: Batch, group: Group, cache: list[ReferenceCache], wanted_R: Longs) -> dict[str, AnyArray]:
        """Everything the graph takes."""
        shape = (len(group.members), group.length)
        starts_S = batch.positions_T[batch.starts_S[group.members]].astype(np.int64)
        feeds: dict[str, AnyArray] = {
            "input_ids": batch.tokens_T[group.rows].reshape(shape).astype(np.int64),
            "position_ids": batch.positions_T[group.rows].reshape(shape).astype(np.int64),
            "rows": wanted_R,
        }
        pasts = {chunk: Past.of(batch.pages(chunk), group.members, starts_S, chunk) for chunk in set(self.chunks)}
        for chunk, past in pasts.items():
            feeds["past_positions" if chunk is None else "local_positions"] = past.positions_SP
        for index, (layer, chunk) in enumerate(zip(cache, self.chunks, strict=True)):
            feeds[f"past_key_values.{index}.key"] = pasts[chunk].gather(layer.keys)
            feeds[f"past_key_values.{index}.value"] = pasts[chunk].gather(layer.values)
        return feeds

    def keep(self, batch: Batch, group: Group, cache: list[ReferenceCache], new: list[Floats]) -> None:
        """Put new keys and values into their slots."""
        for index, (layer, chunk) in enumerate(zip(cache, self.chunks, strict=True)):
            slots_T = batch.pages(chunk).slots_T[group.rows]
            blocks_T, offsets_T = np.divmod(slots_T, layer.keys.shape[2])
            layer.keys[blocks_T, :, offsets_T] = new[2 * index]
            layer.values[blocks_T, :, offsets_T] = new[2 * index + 1]


@dataclass(frozen=True)
class Past:
    """Where the pasts of a group's sequences are: block tables, slots of each, and how many slots are behind it.

    positions_SP int64: the position of every slot, -1 where a shorter past is padded.
    """

    tables: list[npt.NDArray[np.int32]]
    skips: list[int]
    lengths: list[int]
    positions_SP: Longs

    @classmethod
    def of(cls, pages: Pages, members: Sequence[int], starts_S: Longs, chunk: int | None) -> Past:
        """Of a local layer only what is in the chunk of a sequence's first new token."""
        firsts_S = np.zeros_like(starts_S) if chunk is None else starts_S // chunk * chunk
        lengths_S = starts_S - firsts_S
        slots_P = np.arange(lengths_S.max(initial=0))
        positions_SP = np.where(slots_P < lengths_S[:, None], firsts_S[:, None] + slots_P, -1)
        skips_S = firsts_S - np.where(lengths_S > 0, pages.bases_S[members], firsts_S)
        return cls([pages.blocks_SB[member] for member in members], skips_S.tolist(), lengths_S.tolist(), positions_SP)

    def gather(self, blocks: Floats) -> Floats:
        """Keys or values of every past, side by side and padded with zeros: [S, KV heads, past, head size]."""
        _, kv_heads, size, width = blocks.shape
        result = np.zeros((len(self.tables), kv_heads, self.positions_SP.shape[1], width), np.float32)
        for past, table, skip, length in zip(result, self.tables, self.skips, self.lengths, strict=True):
            first, last = skip // size, -(-(skip + length) // size)
            found = blocks[table[first:last]].transpose(1, 0, 2, 3).reshape(kv_heads, -1, width)
            past[:, :length] = found[:, skip - first * size :][:, :length]
        return result
